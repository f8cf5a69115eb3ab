"""Offers of a real browser, offers with something missing, and bytes that are no offer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.webrtc.offer import MAX_BYTES, MAX_LINES, MAX_OF_A_KIND, Offer, Refused, read_offer

CHROMIUM = (Path(__file__).parent / "chromium-156.sdp").read_bytes().decode()
SEEDS = Path(__file__).resolve().parents[4] / "shared" / "data" / "fuzz" / "sdp"


def read(text: str) -> Offer:
    offer = read_offer(text, want_video=True)
    assert isinstance(offer, Offer), offer
    return offer


def refused(text: str) -> Refused:
    offer = read_offer(text, want_video=True)
    assert isinstance(offer, Refused), offer
    return offer


def without(text: str, *starts: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(starts))


def section(text: str, kind: str) -> str:
    """The offer with its section of that kind alone."""
    head, *sections = text.split("m=")
    mid = {"audio": "0", "video": "1", "application": "2"}[kind]
    head = head.replace("a=group:BUNDLE 0 1 2", f"a=group:BUNDLE {mid}")
    return head + "".join(f"m={s}" for s in sections if s.startswith(kind))


def test_chromium_is_understood() -> None:
    offer = read(CHROMIUM)
    assert offer.audio.payload_type == 111 and offer.audio.listens
    assert offer.video is not None
    assert [(c.name, c.payload_type, c.rtx) for c in offer.video.codecs] == [
        ("vp8", 96, 97),
        ("h264", 102, 103),
    ]
    assert "packetization-mode=1" in offer.video.codecs[1].parameters
    assert offer.data is not None and offer.data.sctp_port == 5000
    assert offer.accepted == ("0", "1", "2")
    assert offer.transport.setup == "auto"


def test_video_is_left_out_where_it_is_not_wanted() -> None:
    offer = read_offer(CHROMIUM, want_video=False)
    assert isinstance(offer, Offer)
    assert offer.video is None and offer.accepted == ("0", "2")


def bundle_only(text: str, kind: str) -> str:
    """As RFC 8829 5.2.1 has it under max-bundle: that section without a port and what another one tells."""
    head, *sections = text.split("m=")
    told = ("a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup", "a=rtcp-mux", "a=candidate")
    at = next(i for i, s in enumerate(sections) if s.startswith(kind))
    bare = without(sections[at], *told).replace(f"{kind} 9 ", f"{kind} 0 ", 1)
    sections[at] = bare + "a=bundle-only\r\n"
    return head + "".join(f"m={s}" for s in sections)


@pytest.mark.parametrize("kind", ["video", "application"])
def test_sections_that_are_bundle_only_are_taken(kind: str) -> None:
    text = bundle_only(CHROMIUM, kind)
    assert f"m={kind} 0 " in text
    assert read(text).accepted == ("0", "1", "2")
    assert read(text).transport == read(CHROMIUM).transport
    assert read(without(text, "a=bundle-only")).accepted == tuple(
        mid for mid, other in (("0", "audio"), ("1", "video"), ("2", "application")) if other != kind
    )


def test_a_voice_that_is_bundle_only_has_the_transport_of_the_first_section() -> None:
    head, audio, video, data = bundle_only(CHROMIUM, "audio").split("m=")
    head = head.replace("BUNDLE 0 1 2", "BUNDLE 1 0 2")
    offer = read(head + "".join(f"m={s}" for s in (video, audio, data)))
    assert offer.transport == read(CHROMIUM).transport
    assert offer.accepted == ("1", "0", "2")


def test_a_voice_alone_is_a_call() -> None:
    offer = read(section(CHROMIUM, "audio"))
    assert offer.video is None and offer.data is None and offer.accepted == ("0",)


def test_a_sender_that_does_not_listen_is_told_from_one_that_does() -> None:
    assert not read(CHROMIUM.replace("a=sendrecv", "a=sendonly")).audio.listens


def test_h264_without_packetization_mode_1_is_not_taken() -> None:
    offer = read(CHROMIUM.replace("packetization-mode=1", "packetization-mode=0"))
    assert offer.video is not None and [c.name for c in offer.video.codecs] == ["vp8"]


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        ("", 400, "0 media"),
        ("hello", 400, "0 media"),
        ("v=0\r\nm=audio x UDP 0\r\n", 400, "no SDP"),
        (section(CHROMIUM, "video"), 422, "no audio"),
        (CHROMIUM.replace("m=audio 9", "m=audio 0"), 422, "no audio"),
        (CHROMIUM.replace("a=group:BUNDLE 0 1 2", "a=group:BUNDLE 1 2"), 422, "no audio"),
        (CHROMIUM.replace("a=sendrecv", "a=recvonly"), 422, "not sent"),
        (CHROMIUM.replace("a=sendrecv", "a=inactive"), 422, "not sent"),
        (CHROMIUM.replace("opus/48000/2", "speex/16000"), 406, "opus"),
        (without(CHROMIUM, "a=ice-pwd"), 400, "ice-pwd"),
        (without(CHROMIUM, "a=fingerprint"), 400, "fingerprint"),
        (CHROMIUM.replace("sha-256 ", "sha-1 "), 406, "sha-256"),
        (without(CHROMIUM, "a=rtcp-mux"), 406, "rtcp-mux"),
        (CHROMIUM.replace("a=mid:1", "a=mid:0"), 400, "same a=mid"),
        (CHROMIUM + section(CHROMIUM, "audio").partition("m=")[1] * 20, 400, ""),
        ("v=0\r\n" + "a=x\r\n" * MAX_BYTES, 413, "at most"),
        (CHROMIUM + "a=x\r\n" * MAX_LINES, 400, "lines"),
        (CHROMIUM + "a=rtpmap:1 x/1\r\n" * (MAX_OF_A_KIND + 1), 400, "a=rtpm"),
        (CHROMIUM + "a=ssrc:1 cname:x\r\n" * (MAX_OF_A_KIND + 1), 400, "a=ssrc"),
        (CHROMIUM.replace("111", "200"), 406, "opus"),  # eight bits
        (CHROMIUM.replace("111", "95"), 406, "opus"),  # with its marker bit it would be taken for RTCP
    ],
)
def test_what_is_wrong_is_said(text: str, status: int, word: str) -> None:
    answer = refused(text)
    assert (answer.status, word in answer.reason) == (status, True), answer


@pytest.mark.parametrize(
    "line", ["a=sctp-port:70000", "a=sctp-port:-5", "a=max-message-size:10", "a=max-message-size:-1"]
)
def test_a_data_section_that_we_cannot_speak_over_is_turned_down(line: str) -> None:
    name = line.partition(":")[0]
    offer = read(CHROMIUM.replace("".join(x for x in CHROMIUM.splitlines() if x.startswith(name)), line))
    assert offer.data is None and offer.accepted == ("0", "1")


def test_payload_types_of_video_are_looked_at_too() -> None:
    offer = read(CHROMIUM.replace(" 96", " 200").replace(":96", ":200"))
    assert offer.video is not None and [c.name for c in offer.video.codecs] == ["h264"]


def test_mutated_offers_never_raise() -> None:
    chance = random.Random(3)
    lines = CHROMIUM.splitlines(keepends=True)
    read_ones = 0
    for _ in range(600):
        mutated = list(lines)
        for _ in range(chance.randrange(1, 6)):
            index = chance.randrange(len(mutated))
            match chance.randrange(4):
                case 0:
                    del mutated[index]
                case 1:
                    mutated.insert(index, chance.choice(lines))
                case 2:
                    cut = chance.randrange(len(mutated[index]))
                    mutated[index] = mutated[index][:cut] + chr(chance.randrange(1, 300)) + "\r\n"
                case _:
                    mutated[index] = mutated[index].replace(":", ":" * chance.randrange(4), 1)
        read_ones += isinstance(read_offer("".join(mutated), want_video=True), Offer)
    assert 0 < read_ones < 600


@pytest.mark.skipif(not SEEDS.is_dir(), reason="../shared/data/fuzz/sdp is not there")
def test_the_seeds_of_other_peoples_fuzzers_never_raise() -> None:
    results = [read_offer(path.read_text(errors="replace"), want_video=True) for path in SEEDS.iterdir()]
    assert len(results) > 50
    assert {type(result) for result in results} == {Offer, Refused}
    assert all(result.reason for result in results if isinstance(result, Refused))
