# SPDX-License-Identifier: GPL-3.0-or-later
"""Where messages come from and go to."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Flow(NamedTuple):
    """Where a message came from or goes to.  `udp`, `tcp` and `tls` are peers outside, `worker` is the
    inside socket.

    A `tcp` or `tls` flow is its `connection` number; host and port are those of the peer, for the Via.
    """

    kind: Literal["udp", "tcp", "tls", "worker"]
    host: str
    port: int
    connection: int = 0

    @property
    def is_connection(self) -> bool:
        return self.kind in ("tcp", "tls")


class Send(NamedTuple):
    """One message to send."""

    flow: Flow
    data: bytes
