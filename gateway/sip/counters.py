# SPDX-License-Identifier: GPL-3.0-or-later
"""What the edge counts."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Events since the start, for metrics; only ever counted up."""

    messages: int = 0
    keepalives: int = 0
    bad_messages: int = 0
    calls_admitted: int = 0
    calls_answered: int = 0
    calls_ended: int = 0
    calls_expired: int = 0
    calls_lost: int = 0  # with their worker
    calls_adopted: int = 0
    invites_delayed: int = 0
    refused_busy: int = 0
    refused_draining: int = 0
    refused_by_hook: int = 0
    transfers_begun: int = 0  # REFERs that a worker was given
    transfers_refused: int = 0
    transfers_answered: int = 0
    calls_placed: int = 0  # INVITEs of ours, towards trunks
    placed_answered: int = 0
    screened: int = 0  # bodies that no worker may see
    spoofed: int = 0  # responses and inside messages that are not from a worker of ours
    dropped: int = 0  # nobody to send it to
    errors: int = 0  # bugs of ours, caught at the socket
    tcp_connections: int = 0  # with or without TLS
    tcp_refused: int = 0
    tls_failed: int = 0  # no handshake, or a broken record
