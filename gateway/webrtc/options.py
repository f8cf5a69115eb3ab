"""What the main process tells a WebRTC worker at its start."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.log import Format
from gateway.recording.options import AnnouncementOptions, RecordingOptions
from gateway.safety.options import SafetyOptions


@dataclass(frozen=True, slots=True)
class WebrtcOptions:
    """One process: one UDP port, at most one TCP port, its calls."""

    name: str
    control: str
    """Path of the main process's socket."""
    model: str
    """Path of the socket of the usual engine's model server."""
    host: str
    """Address that the ports are bound to."""
    public_host: str
    """Address that browsers are told; `host` when empty."""
    udp_port: int
    """0 takes a free one."""
    tcp_port: int
    """Of passive ICE-TCP (RFC 6544); 0 is none."""
    max_calls: int
    video: bool
    video_frames_per_chunk: int
    """0, 1 or 2."""
    consent_s: int = 8
    """A browser that sends no authenticated check for so long is away (RFC 7675 asks for 30 at most)."""
    resume_s: int = 30
    """A call whose browser is away may be resumed for so long."""
    realtime: bool = True
    log_level: str = "info"
    log_format: Format = "text"
    tcp_only: bool = False
    """No UDP at all: media over TURN's TCP or our TCP port."""
    bitrate: int = 48_000
    """Of Opus towards the browser, bit/s: low-delay CELT loses half a MOS at 32,000, and costs the same."""
    red: bool = False
    """Redundant audio (RFC 2198) both ways where a browser offers it."""
    recording: RecordingOptions | None = None
    traces: bool = False
    """Whether it notes of every call what a trace is made of."""
    engines: dict[str, str] = field(default_factory=dict)
    """Further engines, and the sockets of their model servers."""
    announcements: AnnouncementOptions = field(default_factory=AnnouncementOptions)
    safety: SafetyOptions | None = None
    realtime_api: bool = True
    """Whether clients of `/v1/realtime` may be handed to it."""
    realtime_buffer_s: int = 30
    """Of sound that waits, of one of them."""
    retry_after_s: int = 2
    """What a refused browser is asked to wait."""
