"""The answer's lines, as aiortc's own parser and the offer's order see them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aiortc import sdp

from gateway.webrtc.answer import Local, our_setup, write_answer
from gateway.webrtc.offer import Offer, read_offer

CHROMIUM = (Path(__file__).parent / "chromium-156.sdp").read_bytes().decode()
LOCAL = Local(
    ufrag="abcd",
    pwd="p" * 24,
    candidates=(
        "1 1 udp 2130706431 192.0.2.7 7600 typ host",
        "2 1 tcp 1520435199 192.0.2.7 7601 typ host tcptype passive",
    ),
    fingerprint="sha-256 " + ":".join(["AB"] * 32),
    sctp_port=5000,
    ssrc=77,
    cname="c",
)


def read(text: str) -> Offer:
    offer = read_offer(text, want_video=True)
    assert isinstance(offer, Offer)
    return offer


def answered(text: str = CHROMIUM, *, want_video: bool = True) -> tuple[str, sdp.SessionDescription]:
    offer = read_offer(text, want_video=want_video)
    assert isinstance(offer, Offer), offer
    answer = write_answer(offer, LOCAL)
    return answer, sdp.SessionDescription.parse(answer)


def test_everything_is_bundled_on_our_one_port() -> None:
    text, answer = answered()
    assert [(m.kind, m.port) for m in answer.media] == [
        ("audio", 7600),
        ("video", 7600),
        ("application", 7600),
    ]
    assert [g.items for g in answer.group] == [["0", "1", "2"]]
    assert "a=ice-lite" in text.splitlines()
    assert text.count("a=candidate:") == 6 and text.count("a=end-of-candidates") == 3
    assert all(m.ice is not None and m.ice.usernameFragment == "abcd" for m in answer.media)


def test_opus_is_asked_for_as_the_model_hears_it() -> None:
    _, answer = answered()
    (codec,) = answer.media[0].rtp.codecs
    assert (codec.name, codec.payloadType, codec.channels) == ("opus", 111, 2)
    assert codec.parameters["useinbandfec"] == 1 and codec.parameters["maxplaybackrate"] == 16000
    assert answer.media[0].direction == "sendrecv"
    assert [s.ssrc for s in answer.media[0].ssrc] == [77]


def test_repeats_are_agreed_on_where_they_are_offered() -> None:
    text, _ = answered()
    assert "a=rtcp-fb:111" not in text
    text, answer = answered(CHROMIUM.replace("a=rtcp-fb:111 ", "a=rtcp-fb:111 nack\r\na=rtcp-fb:111 ", 1))
    assert [(f.type, f.parameter) for f in answer.media[0].rtp.codecs[0].rtcpFeedback] == [("nack", None)]


def test_redundant_audio_is_preferred_where_we_want_it_and_it_is_offered() -> None:
    wanting = replace(LOCAL, red=True)
    for text, types in (
        (CHROMIUM, [63, 111]),
        (CHROMIUM.replace("111/111", "111/9"), [111]),
        (CHROMIUM.replace("111/111", "111"), [111]),
        (CHROMIUM.replace("red/48000", "red/8000"), [111]),
    ):
        media = sdp.SessionDescription.parse(write_answer(read(text), wanting)).media[0]
        assert media.fmt == types and [c.payloadType for c in media.rtp.codecs] == types
    assert "a=fmtp:63 111/111" in write_answer(read(CHROMIUM), wanting).splitlines()
    assert "red/" not in answered()[0]


def test_pictures_come_in_at_a_stated_rate_and_none_go_out() -> None:
    text, answer = answered()
    video = answer.media[1]
    assert video.direction == "recvonly"
    assert [(c.name, c.payloadType) for c in video.rtp.codecs] == [
        ("VP8", 96),
        ("rtx", 97),
        ("H264", 102),
        ("rtx", 103),
    ]
    assert video.rtp.codecs[1].parameters == {"apt": 96}
    assert {(f.type, f.parameter) for f in video.rtp.codecs[0].rtcpFeedback} >= {
        ("nack", None),
        ("nack", "pli"),
        ("goog-remb", None),
    }
    lines = text.splitlines()
    assert lines[lines.index("b=AS:300") - 1].startswith("c=")  # RFC 8866 section 5


def test_a_section_that_is_not_wanted_is_rejected_in_its_place() -> None:
    _, answer = answered(want_video=False)
    assert [(m.kind, m.port, m.rtp.muxId) for m in answer.media] == [
        ("audio", 7600, "0"),
        ("video", 0, "1"),
        ("application", 7600, "2"),
    ]
    assert [g.items for g in answer.group] == [["0", "2"]]


def test_who_does_not_listen_is_not_spoken_to() -> None:
    text, answer = answered(CHROMIUM.replace("a=sendrecv", "a=sendonly"))
    assert answer.media[0].direction == "recvonly"
    assert "a=ssrc:" not in text


def test_we_begin_the_handshake_unless_the_browser_does() -> None:
    for theirs, ours in (("actpass", "active"), ("passive", "active"), ("active", "passive")):
        offer = read_offer(CHROMIUM.replace("a=setup:actpass", f"a=setup:{theirs}"), want_video=True)
        assert isinstance(offer, Offer)
        assert our_setup(offer) == ours
        assert f"a=setup:{ours}" in write_answer(offer, LOCAL)
