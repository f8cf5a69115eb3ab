"""A browser's offer, read as far as a call needs it, or why there can be no call (RFC 8829, RFC 9725 4.2).

One audio section with Opus that the browser sends in, at most one video section with VP8 or H.264, at most
one data section, all in one BUNDLE with multiplexed RTCP. Whatever else is offered is turned down in the
answer, section by section; only what makes a call impossible turns the offer down.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from aiortc import sdp

MAX_SECTIONS = 16
MAX_BYTES = 32 * 1024
MAX_LINES = 1000
"""A browser that offers everything it has sends some 400."""
MAX_OF_A_KIND = 128
"""rtpmap or ssrc lines of a section: payload types have 7 bits. The parser looks through all of them for each of
their attributes, so 32 KiB of the right lines would take it 40 ms."""
LEAST_MESSAGE_BYTES = 4096
"""What we say on a data channel fits into; who takes less gets none."""
DIGESTS = ("sha-256", "sha-384", "sha-512")
VIDEO_CODECS: Final[dict[str, Literal["vp8", "h264"]]] = {"vp8": "vp8", "h264": "h264"}
LISTENS = {"sendrecv": True, "sendonly": False}


@dataclass(frozen=True, slots=True)
class Refused:
    """Why not, with the HTTP status that says so."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Section:
    """One m= line, in the offer's order."""

    kind: str
    mid: str
    profile: str
    format: str
    """The first one, which a rejected section repeats."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Opus from the browser, and to it if it listens."""

    mid: str
    payload_type: int
    listens: bool
    repeats: bool = False
    """Lost packets may be asked for again (generic NACK, RFC 4585)."""
    red: int = 0
    """Payload type of packets that carry those before them once more (RFC 2198); 0 for none."""


@dataclass(frozen=True, slots=True)
class VideoCodec:
    """`vp8` or `h264`; `rtx` is the payload type of its retransmissions (RFC 4588), 0 for none."""

    name: Literal["vp8", "h264"]
    payload_type: int
    rtx: int
    parameters: str


@dataclass(frozen=True, slots=True)
class Video:
    """Pictures from the browser, in any of the codecs."""

    mid: str
    codecs: tuple[VideoCodec, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """SCTP over DTLS (RFC 8841)."""

    mid: str
    sctp_port: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Transport:
    """The browser's side of ICE and DTLS, one for all sections."""

    ufrag: str
    pwd: str
    fingerprints: tuple[tuple[str, str], ...]
    """(algorithm, value)"""
    setup: str
    """The browser's DTLS role: `auto` (actpass), `client` (active) or `server` (passive)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a call is made of."""

    transport: Transport
    sections: tuple[Section, ...]
    audio: Audio
    video: Video | None
    data: Data | None

    @property
    def accepted(self) -> tuple[str, ...]:
        """The mids that the answer takes, in the offer's order."""
        parts = (self.audio, self.video, self.data)
        mids = {part.mid for part in parts if part is not None}
        return tuple(section.mid for section in self.sections if section.mid in mids)


def read_offer(text: str, *, want_video: bool) -> Offer | Refused:
    """The offer, or its refusal. Never raises."""
    if len(text) > MAX_BYTES:
        return Refused(413, f"{len(text)} characters of SDP: give at most {MAX_BYTES}")
    if why := _too_much(text):
        return Refused(400, why)
    try:
        session = sdp.SessionDescription.parse(text)
    except Exception as wrong:  # the edge of a call: aiortc's parser raises whatever its lines run into
        return Refused(400, f"the offer is no SDP that we understand ({type(wrong).__name__}: {wrong})"[:200])
    media = session.media
    if not media or len(media) > MAX_SECTIONS:
        return Refused(400, f"{len(media)} media sections: give 1 to {MAX_SECTIONS}")
    sections = tuple(
        Section(m.kind, m.rtp.muxId or str(i), m.profile, str(m.fmt[0]) if m.fmt else "0")
        for i, m in enumerate(media)
    )
    if len({s.mid for s in sections}) < len(sections):
        return Refused(400, "two media sections have the same a=mid")
    bundled = _bundled(session, sections)
    offered = _offered(text)
    named = [
        (m, s)
        for m, s, is_offered in zip(media, sections, offered, strict=True)
        if is_offered and s.mid in bundled
    ]
    audio = _audio(named)
    if isinstance(audio, Refused):
        return audio
    transport = _transport(next(m for m, s in named if s.mid == audio.mid), named)
    if isinstance(transport, Refused):
        return transport
    return Offer(
        transport=transport,
        sections=sections,
        audio=audio,
        video=_video(named) if want_video else None,
        data=_data(named),
    )


def _too_much(text: str) -> str:
    """Why the parser would take too long over this; "" when it would not."""
    lines = text.splitlines()  # as the parser does
    if len(lines) > MAX_LINES:
        return f"{len(lines)} lines of SDP: give at most {MAX_LINES}"
    counts: Counter[str] = Counter()
    for line in lines:
        if line.startswith("m="):
            counts.clear()
        kind = line[: len("a=ssrc")]
        counts[kind] += 1
        if kind in ("a=rtpm", "a=ssrc") and counts[kind] > MAX_OF_A_KIND:
            return f"more than {MAX_OF_A_KIND} lines {kind}... in one section"
    return ""


Named = list[tuple[sdp.MediaDescription, Section]]


def _offered(text: str) -> list[bool]:
    """Of each section; port 0 turns one down, unless it is bundle-only (RFC 9143 section 6)."""
    _, blocks = sdp.grouplines(text)
    return ["a=bundle-only" in block or block[0].split()[1] != "0" for block in blocks]


def _bundled(session: sdp.SessionDescription, sections: tuple[Section, ...]) -> set[str]:
    """Mids of the BUNDLE group that holds the first section; the first alone when there is none."""
    for group in session.group:
        if group.semantic == "BUNDLE" and group.items:
            return {str(item) for item in group.items}
    first = next((s for s in sections if s.kind == "audio"), sections[0])
    return {first.mid}


def _audio(named: Named) -> Audio | Refused:
    sections = [(m, s) for m, s in named if m.kind == "audio"]
    if not sections:
        return Refused(422, "the offer has no audio (in its BUNDLE): a call needs the caller's voice")
    for media, section in sections:
        direction = media.direction or "sendrecv"
        if direction not in LISTENS:
            continue
        for codec in media.rtp.codecs:
            is_opus = codec.mimeType.lower() == "audio/opus" and codec.clockRate == 48_000
            if is_opus and codec.payloadType is not None and _is_free(codec.payloadType):
                repeats = any(f.type == "nack" and not f.parameter for f in codec.rtcpFeedback)
                red = _red(media, codec.payloadType)
                return Audio(section.mid, codec.payloadType, LISTENS[direction], repeats, red)
        offered = ", ".join(sorted({c.name for c in media.rtp.codecs})) or "none that is named"
        return Refused(406, f"the offer's audio codecs are {offered[:100]}: one must be opus/48000/2")
    return Refused(422, "the offer's audio is not sent: make it sendrecv or sendonly")


def _red(media: sdp.MediaDescription, opus: int) -> int:
    """Of RED whose blocks are all of that payload type: `a=fmtp:63 111/111`, as RFC 2198 section 5 has it."""
    for codec in media.rtp.codecs:
        if codec.name.lower() == "red" and codec.clockRate == 48_000 and _is_free(codec.payloadType or 0):
            blocks = [kind for kinds in codec.parameters for kind in kinds.split("/")]
            if len(blocks) > 1 and set(blocks) == {str(opus)}:
                return codec.payloadType or 0
    return 0


def _is_free(payload_type: int) -> bool:
    """Seven bits, and none that looks like RTCP on the same port (RFC 5761 4)."""
    return 0 <= payload_type < 128 and not 64 <= payload_type < 96


def _transport(audio: sdp.MediaDescription, named: Named) -> Transport | Refused:
    """Of the voice's section, or of the first that tells it: bundle-only ones need not (RFC 8829 section 5.2.1)."""
    told = (m for m in (audio, *(m for m, _ in named)) if m.ice is not None and m.ice.usernameFragment)
    media = next(told, audio)
    ice, dtls = media.ice, media.dtls
    ufrag, pwd = (ice.usernameFragment or "", ice.password or "") if ice is not None else ("", "")
    if not (4 <= len(ufrag) <= 256 and 22 <= len(pwd) <= 256):  # RFC 8839 5.4
        return Refused(400, "a=ice-ufrag (4 to 256 characters) or a=ice-pwd (22 to 256) is missing or wrong")
    if dtls is None or not dtls.fingerprints:
        return Refused(400, "a=fingerprint or a=setup is missing: media is encrypted with DTLS-SRTP only")
    if not any(f.algorithm.lower() in DIGESTS for f in dtls.fingerprints):
        return Refused(406, f"a=fingerprint must be of {', '.join(DIGESTS)}")
    if not (media.rtcp_mux or audio.rtcp_mux):
        return Refused(406, "a=rtcp-mux is missing: RTP and RTCP share one port here")
    fingerprints = tuple((f.algorithm.lower(), f.value) for f in dtls.fingerprints)
    return Transport(ufrag, pwd, fingerprints, dtls.role)


def _video(named: Named) -> Video | None:
    """VP8 and H.264, each once, in the browser's order of preference."""
    for media, section in named:
        if media.kind != "video" or (media.direction or "sendrecv") not in LISTENS:
            continue
        repairs = [c for c in media.rtp.codecs if c.name.lower() == "rtx" and _is_free(c.payloadType or 0)]
        rtx = {c.parameters.get("apt"): c.payloadType for c in repairs}
        found: dict[str, VideoCodec] = {}
        for codec in media.rtp.codecs:
            name = VIDEO_CODECS.get(codec.name.lower())
            if name is None or name in found or codec.payloadType is None or not _is_free(codec.payloadType):
                continue
            if name == "h264" and str(codec.parameters.get("packetization-mode", "0")) != "1":
                continue
            told = sdp.parameters_to_sdp(codec.parameters) if name == "h264" else ""
            found[name] = VideoCodec(name, codec.payloadType, rtx.get(codec.payloadType) or 0, told)
        if found:
            return Video(section.mid, tuple(found.values()))
    return None


def _data(named: Named) -> Data | None:
    for media, section in named:
        port = media.sctp_port or 0
        if media.kind == "application" and 0 < port < 65_536:
            most = media.sctpCapabilities.maxMessageSize if media.sctpCapabilities else 65_536
            if most and most < LEAST_MESSAGE_BYTES:  # 0 is any size (RFC 8841 6.1)
                continue
            return Data(section.mid, port, most)
    return None
