"""What browsers say: STUN, DTLS records, RTCP, SCTP, the data channel, offers, trickled candidates, headers."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from loadtests.fuzz.target import Script, Take, Target

OFFER = (
    b"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
    b"c=IN IP4 0.0.0.0\r\na=mid:0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n"
    b"a=sendrecv\r\na=rtcp-mux\r\na=fingerprint:sha-256 "
    + b":".join([b"AB"] * 32)
    + b"\r\na=setup:actpass\r\na=rtpmap:111 opus/48000/2\r\n"
    b"a=fmtp:111 minptime=10;useinbandfec=1\r\n"
    b"a=ssrc:1 cname:x\r\na=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\n"
)
FRAGMENT = (
    b"a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"
    b"a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\na=end-of-candidates\r\n"
)
CHANNEL = (
    b'{"type":"hello","version":1}', b'{"type":"text","text":"hello"}', b'{"type":"subscribe","every":1}',
    b'{"type":"bye"}', b'{"type":"withdraw","what":"recording"}',
)  # fmt: skip
REALTIME = (
    b'{"type":"input_audio_buffer.append","audio":"AAAA"}',
    b'{"type":"session.update","session":{"type":"realtime"}}',
    b'{"type":"conversation.item.truncate","item_id":"i","audio_end_ms":1}', b'{"type":"response.cancel"}',
)  # fmt: skip
FINGERPRINT_MASK = 0x5354554E  # RFC 8489 14.7


def _stun() -> Take:
    """Attributes; the header and a right FINGERPRINT are put around them, which chance would not find."""
    from gateway.webrtc.ice_stun import error, read_request, success

    def take(data: bytes) -> None:
        read_request(data)
        attributes = data + bytes(-len(data) % 4)
        before = struct.pack("!HHI12s", 1, len(attributes) + 8, 0x2112A442, b"t" * 12) + attributes
        found = read_request(before + struct.pack("!HHI", 0x8028, 4, zlib.crc32(before) ^ FINGERPRINT_MASK))
        if found is not None:
            found.is_signed_by(b"password")
            assert found.local_ufrag is not None and found.remote_ufrag is not None
            assert success(found, ("192.0.2.1", 5), b"password") and error(found, 420, b"password")

    return take


def _framed() -> Take:
    """RFC 4571 in pieces: the same frames, however they come."""
    from gateway.webrtc.ice_tcp import FrameReader

    def take(data: bytes) -> None:
        piece, rest = 1 + Script(data).number(1), data[1:]
        parts = [rest[at : at + piece] for at in range(0, len(rest), piece)]
        reader = FrameReader()
        frames = [frame for part in parts for frame in reader.feed(part)]
        assert sum(map(len, frames)) <= len(rest)

    return take


def _dtls() -> Take:
    from gateway.webrtc.dtls_door import records

    return lambda data: [bytes(record) for record in records(data)]


def _rtcp() -> Take:
    from gateway.webrtc.rtcp import heard, parse, repeats_wanted, sender_report_of

    def take(data: bytes) -> None:
        for packet in parse(data) or ():
            heard(packet, 1, 2**40)
            repeats_wanted(packet, 1)
            sender_report_of(packet)

    return take


def _sctp() -> Take:
    from gateway.webrtc.sctp import split

    return lambda data: split(bytes(12) + data)


def _channel() -> Take:
    from gateway.webrtc.channel import Channel

    class Wire:
        """Nobody reads it."""

        readyState, bufferedAmount = "open", 0

        def send(self, data: Any) -> None:
            assert isinstance(data, str)

    def take(data: bytes) -> None:
        heard: list[object] = []
        channel = Channel(Wire(), heard.append)
        channel.receive(data, 0)
        channel.receive(data.decode("utf-8", "surrogateescape"), 0)
        channel.receive(data.decode("utf-8", "replace"), 0)
        assert len(heard) + channel.refused == 3

    return take


def _realtime() -> Take:
    from gateway.realtime.events import Append, Fault, read, sound_of

    def take(data: bytes) -> None:
        for given in (data, data.decode("utf-8", "surrogateescape")):
            event = read(given)
            if isinstance(event, Append):
                assert isinstance(sound_of(event.audio), bytes | Fault)

    return take


def _offer() -> Take:
    from gateway.webrtc.offer import read_offer

    return lambda data: read_offer(data.decode("utf-8", "replace"), want_video=True)


def _fragment() -> Take:
    from gateway.api.sdpfrag import parse

    return lambda data: parse(data.decode("utf-8", "replace"))


def _bad_fragment() -> tuple[type[Exception], ...]:
    from gateway.api.sdpfrag import BadFragment

    return (BadFragment,)


def _token() -> Take:
    from gateway.api.tokens import check

    return lambda data: check("k" * 32, data.decode("latin-1"))


def _unauthorised() -> tuple[type[Exception], ...]:
    from gateway.api.tokens import Unauthorised

    return (Unauthorised,)


def _traceparent() -> Take:
    from gateway.tracing.spans import parse

    return lambda data: parse(data.decode("latin-1"))


BROWSERS = (
    Target(
        "stun",
        _stun,
        seeds=(bytes.fromhex("00060009616263643a656667680000000024000400000001"),),
        folder="fuzz/stun",
    ),
    Target("rfc4571", _framed, seeds=(b"\x05\x00\x03abc\x00\x00\x00\x01d", b"\x01\xff\xffa")),
    Target(
        "dtls-records", _dtls, seeds=(bytes.fromhex("16fefd0000000000000000000401000000"), b"\x14\xfe\xff")
    ),
    Target(
        "rtcp",
        _rtcp,
        seeds=(bytes.fromhex("80c80006" + "00000001" + 20 * "00" + "81c9000700000001"),),
        folder="fuzz/rtcp",
    ),
    Target(
        "sctp",
        _sctp,
        seeds=(
            bytes.fromhex("0100001400000001000010000001000100000001"),
            bytes.fromhex("0300001000000001000010000000000000"),
        ),
    ),
    Target("data-channel", _channel, seeds=CHANNEL),
    Target("realtime-event", _realtime, seeds=REALTIME),
    Target("offer", _offer, seeds=(OFFER,), folder="fuzz/sdp"),
    Target("sdpfrag", _fragment, _bad_fragment, (FRAGMENT,)),
    Target("token", _token, _unauthorised, (b"Bearer eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln", b"Basic eA==")),
    Target("traceparent", _traceparent, seeds=(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",)),
)
