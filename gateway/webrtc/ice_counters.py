"""What the ICE ports of a worker count."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class IceCounters:
    """Events since the start, for metrics; only ever counted up."""

    datagrams: int = 0  # UDP, whatever is in them
    oversized: int = 0  # longer than any datagram of a call may be
    unmatched: int = 0  # no STUN, and from an address that no call has learned
    unexpected: int = 0  # from a call, but neither DTLS nor (S)RTP nor (S)RTCP
    early_rtp: int = 0  # before anybody listened to it
    queue_dropped: int = 0  # DTLS, SCTP or RTCP that a call did not fetch in time
    stun_requests: int = 0  # well-formed binding requests
    stun_other: int = 0  # indications, answers, other methods
    bad_stun: int = 0  # malformed, or without a right FINGERPRINT
    bad_integrity: int = 0  # of a ufrag of ours, with wrong or no credentials
    unknown_ufrag: int = 0
    unknown_attributes: int = 0  # answered with 420
    role_conflicts: int = 0  # answered with 487
    replays: int = 0  # a check that was seen before, now from another address
    address_conflicts: int = 0  # a check from an address that a live call holds
    paths_learned: int = 0
    paths_dropped: int = 0  # a call had too many
    switches: int = 0  # nominations of another path than the one in use
    restarts: int = 0
    consents_lost: int = 0
    connects_timed_out: int = 0
    connections_refused: int = 0  # more than the server may have, or a ufrag twice
    unsent: int = 0  # no path, or no consent to use it
    send_errors: int = 0
    receive_errors: int = 0
    tcp_connections: int = 0
    tcp_refused: int = 0
    tcp_silent: int = 0  # closed: no valid check in time, or in the way of others
    tcp_bad_frames: int = 0  # closed: a frame longer than any may be
    tcp_unsent: int = 0  # datagrams that the peer did not read fast enough
    errors: int = 0  # bugs of ours, caught at the socket
