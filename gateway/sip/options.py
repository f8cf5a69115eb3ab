"""What a SIP worker is told at its start, free of the library, so that its parent need not load it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.log import Format
from gateway.recording.options import AnnouncementOptions, RecordingOptions
from gateway.safety.options import SafetyOptions


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """How one worker process sets its library up."""

    rate_hz: int
    """Of the bridge: the codec's own rate, since the bridge's resampler would be nearly the whole cost."""
    max_calls: int
    rtp_host: str
    rtp_port: int
    rtp_ports: int
    store_ms: int = 1500
    """Room of pjmedia's jitter buffer, which only puts packets in order: `media/chunker.py` says what is taken out.

    Its own ways of giving delay back are too slow, at any setting (init, least, most, discard none, static or
    progressive; the jbuf.c of both builds on the lab's networks, seed 1): the floor was back at best 4.3 s after
    300 ms of jitter, 3.0 s after a second's stall, 2.2 s after 5 % loss with 60 ms of jitter, 3.1 s after busy
    Wi-Fi and 2.8 s after 3G. What holds it up, a burst level that falls by a third each 0.4 s, is no setting.
    A second that comes at once has room here, so that what is left out of it is counted.
    """
    srtp: int = 0
    """0 off, 1 optional, 2 required (SDES, RFC 4568)."""
    session_expires_s: int = 0
    """Session timer (RFC 4028) where the peer can have one; 0 is none."""
    dtmf_out: str = "auto"
    """How keys are pressed: auto, info or inband."""
    rtp_host6: str = ""
    """The address of calls whose sound is IPv6; empty is none."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the main process tells a worker on its command line."""

    name: str
    control: str
    model: str
    """Path of the socket of the usual engine's model server."""
    endpoint: EndpointOptions
    rtp_timeout_s: int
    hold_timeout_s: int
    early_media_ms: int
    retry_after_s: int
    realtime: bool = True
    log_level: str = "info"
    log_format: Format = "text"
    transfer_words: bool = True
    """The end of the conversation goes with a caller who is handed over."""
    hears_tones: bool = False
    """Keys are listened for in the sound of calls that send no events."""
    recording: RecordingOptions | None = None
    traces: bool = False
    """Whether it notes of every call what a trace is made of."""
    engines: dict[str, str] = field(default_factory=dict)
    """Further engines, and the sockets of their model servers."""
    announcements: AnnouncementOptions = field(default_factory=AnnouncementOptions)
    safety: SafetyOptions | None = None
