"""What a SIP worker is told at its start, free of the library, so that its parent need not load it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """How one worker process sets its library up."""

    rate_hz: int
    """Of the bridge: the codec's own rate, since the bridge's resampler would be nearly the whole cost."""
    max_calls: int
    rtp_host: str
    rtp_port: int
    rtp_ports: int
    jitter_ms: tuple[int, int, int, int] = (20, 20, 200, 400)
    """Initial, least and most pre-buffering, and the buffer's size: a trunk on a LAN."""
    srtp: int = 0
    """0 off, 1 optional, 2 required (SDES, RFC 4568)."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the main process tells a worker on its command line."""

    name: str
    control: str
    model: str
    endpoint: EndpointOptions
    rtp_timeout_s: int
    early_media_ms: int
    retry_after_s: int
    realtime: bool = True
    log_level: str = "info"
