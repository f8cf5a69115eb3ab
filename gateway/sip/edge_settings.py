# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the SIP edge listens, and for whom."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.sip.guard import GuardRules
from gateway.sip.registration import Registree
from gateway.sip.targets import Targets


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Where the edge listens.  Raises ValueError for what cannot be.

    `public_host` is what peers reach it by (Via, Record-Route; default `host`, then no wildcard).  Port 0
    takes a free one.  `inside_port` on 127.0.0.1 is what workers keep in their route sets: give it a number
    if calls are to be adopted after a restart.  A TCP connection without a message for `tcp_idle_s` is
    closed unless a call needs it.  With a `tls_context` there is TLS on `tls_port`, under the same limits.
    Callers may be transferred to `refer_targets` (`targets.Targets`); empty refuses every REFER.
    """

    host: str = "127.0.0.1"
    port: int = 5060
    public_host: str = ""
    inside_port: int = 0
    tcp: bool = True
    retry_after_s: int = 2
    max_tcp_connections: int = 512
    tcp_idle_s: float = 120.0
    tls_port: int = 0
    tls_context: ssl.SSLContext | None = None
    tls_client: ssl.SSLContext | None = None
    """Of connections that we open."""
    refer_targets: tuple[str, ...] = ()
    rules: GuardRules = field(default_factory=GuardRules)
    """Who may begin something."""
    registrations: Mapping[str, Registree] = field(default_factory=dict)
    """Where we register, by trunk."""
    sound6: bool = False
    """Workers have sound over IPv6, too."""

    def __post_init__(self) -> None:
        for port in (self.port, self.inside_port, self.tls_port):
            if not 0 <= port < 65536:
                raise ValueError(f"SIP port {port} is not 0-65535")
        if not self.public_host and self.host in ("", "0.0.0.0", "::"):
            raise ValueError("public_host must be set when the SIP edge listens on all addresses")
        if self.tls_port and self.tls_context is None:
            raise ValueError(f"tls_port {self.tls_port} needs a tls_context")
        Targets(self.refer_targets)
        if self.retry_after_s < 0 or self.max_tcp_connections < 1 or self.tcp_idle_s <= 0:
            raise ValueError("retry_after_s >= 0, max_tcp_connections >= 1 and tcp_idle_s > 0 are required")
