"""The answer to an offer, as SDP text (RFC 8829; ICE-lite of RFC 8839; what browsers do with each line is
measured in docs/architecture.md).

Opus is asked for as the model hears it: 16 kHz mono, 20 ms packets, in-band FEC ready.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass

from gateway.webrtc.offer import Offer, Section, VideoCodec

OPUS = "minptime=10;useinbandfec=1;maxplaybackrate=16000;sprop-maxcapturerate=16000;stereo=0;sprop-stereo=0"
VIDEO_FEEDBACK = ("goog-remb", "nack", "nack pli", "ccm fir")


@dataclass(frozen=True, slots=True)
class Local:
    """Our side of the transport, and what we send with."""

    ufrag: str
    pwd: str
    candidates: tuple[str, ...]
    """Each as after `a=candidate:`; not empty."""
    fingerprint: str
    """`sha-256 AB:CD:...`"""
    sctp_port: int
    ssrc: int
    cname: str
    red: bool = False
    """Redundant audio is preferred where it is offered."""
    video_kbps: int = 300
    """What a camera may send at most."""


def our_setup(offer: Offer) -> str:
    """`active` or `passive`: we begin the handshake unless the browser insists on it."""
    return "passive" if offer.transport.setup == "client" else "active"


def write_answer(offer: Offer, local: Local) -> str:
    """SDP with CRLF line ends."""
    lines = [
        "v=0",
        f"o=- {secrets.randbits(62)} 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        f"a=group:BUNDLE {' '.join(offer.accepted)}",
        "a=msid-semantic: WMS *",
        "a=ice-lite",
    ]
    for section in offer.sections:
        lines += _section(section, offer, local)
    return "\r\n".join(lines) + "\r\n"


def _section(section: Section, offer: Offer, local: Local) -> list[str]:
    if section.mid == offer.audio.mid:
        return _audio(section, offer, local)
    if offer.video is not None and section.mid == offer.video.mid:
        return _video(section, offer, local)
    if offer.data is not None and section.mid == offer.data.mid:
        return _data(section, offer, local)
    return [
        f"m={section.kind} 0 {section.profile} {section.format}",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{section.mid}",
    ]


def _audio(section: Section, offer: Offer, local: Local) -> list[str]:
    pt, listens = offer.audio.payload_type, offer.audio.listens
    red = offer.audio.red if local.red else 0
    types = f"{red} {pt}" if red else f"{pt}"  # the first one is sent
    lines = [f"m=audio {_port(local)} {section.profile} {types}", *_transport(section, offer, local)]
    if red:
        lines += [f"a=rtpmap:{red} red/48000/2", f"a=fmtp:{red} {pt}/{pt}"]
    lines += [
        "a=sendrecv" if listens else "a=recvonly",
        "a=rtcp-mux",
        f"a=rtpmap:{pt} opus/48000/2",
        *[f"a=rtcp-fb:{pt} nack"] * offer.audio.repeats,
        f"a=fmtp:{pt} {OPUS}",
        "a=ptime:20",
    ]
    if listens:
        lines += ["a=msid:microturn voice", f"a=ssrc:{local.ssrc} cname:{local.cname}"]
    return lines


def _video(section: Section, offer: Offer, local: Local) -> list[str]:
    assert offer.video is not None
    types = [pt for c in offer.video.codecs for pt in (c.payload_type, c.rtx) if pt]
    connection, *transport = _transport(section, offer, local)
    return [
        f"m=video {_port(local)} {section.profile} {' '.join(map(str, types))}",
        connection,
        f"b=AS:{local.video_kbps}",
        *transport,
        "a=recvonly",
        "a=rtcp-mux",
        *(line for codec in offer.video.codecs for line in _codec(codec)),
    ]


def _codec(codec: VideoCodec) -> list[str]:
    pt = codec.payload_type
    name = {"vp8": "VP8", "h264": "H264"}[codec.name]
    lines = [f"a=rtpmap:{pt} {name}/90000", *(f"a=rtcp-fb:{pt} {what}" for what in VIDEO_FEEDBACK)]
    if codec.parameters:
        lines.append(f"a=fmtp:{pt} {codec.parameters}")
    if codec.rtx:
        lines += [f"a=rtpmap:{codec.rtx} rtx/90000", f"a=fmtp:{codec.rtx} apt={pt}"]
    return lines


def _data(section: Section, offer: Offer, local: Local) -> list[str]:
    return [
        f"m=application {_port(local)} {section.profile} webrtc-datachannel",
        *_transport(section, offer, local),
        f"a=sctp-port:{local.sctp_port}",
        "a=max-message-size:65536",
    ]


def _transport(section: Section, offer: Offer, local: Local) -> list[str]:
    """The same in every accepted section: some read the first one's, some the last one's."""
    host = _host(local)
    lines = [f"c=IN IP{ipaddress.ip_address(host).version} {host}", f"a=mid:{section.mid}"]
    lines += [f"a=ice-ufrag:{local.ufrag}", f"a=ice-pwd:{local.pwd}"]
    lines += [*(f"a=candidate:{candidate}" for candidate in local.candidates), "a=end-of-candidates"]
    return [*lines, f"a=fingerprint:{local.fingerprint}", f"a=setup:{our_setup(offer)}"]


def _host(local: Local) -> str:
    return local.candidates[0].split()[4]


def _port(local: Local) -> int:
    return int(local.candidates[0].split()[5])
