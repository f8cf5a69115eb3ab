"""SDP fragments of Trickle ICE: what clients send is read, what nobody should send is refused in words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.sdpfrag import BadFragment, credentials_of, parse, ufrag_of
from tests.support.web_worker import OFFER, PWD, UFRAG, fragment

SEEDS = Path(__file__).parents[4] / "shared/data/fuzz/sdp"
RFC8840_9 = (  # the example of section 9
    "a=ice-pacing:50\na=group:BUNDLE foo\nm=audio 9 RTP/AVP 0\na=mid:foo\n"
    "a=ice-ufrag:EsAw\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\n"
    "a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1\n"
    "a=candidate:473322822 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active generation 0 ufrag EsAw\n"
    "a=end-of-candidates\n"
)


def test_the_example_of_the_rfc() -> None:
    read = parse(RFC8840_9)
    assert (read.ufrag, read.pwd, read.complete) == (UFRAG, PWD, True)
    assert [c.split()[2] for c in read.candidates] == ["udp", "tcp"]
    assert read.candidates[0].startswith("1387637174 1 udp 2122260223 192.0.2.1 61764 typ host")


def test_line_ends_and_repetitions_do_not_matter() -> None:
    assert parse(RFC8840_9.replace("\n", "\r\n")) == parse(RFC8840_9)
    assert parse(RFC8840_9 + RFC8840_9) == parse(RFC8840_9)  # one section per medium, all bundled


def test_candidates_that_browsers_send() -> None:
    text = fragment() + (
        "a=candidate:1 1 udp 2113937151 0c1a5ad8-d80a-4b25-9fa1-08e3c8d7d2c8.local 54321 typ host\r\n"
        "a=candidate:2 1 UDP 1677729535 2001:db8::1 54321 typ srflx raddr 0.0.0.0 rport 0\r\n"
        "a=candidate:3 1 udp 41885439 192.0.2.7 50000 typ relay raddr 0.0.0.0 rport 0 generation 0\r\n"
    )
    assert len(parse(text).candidates) == 4 and not parse(text).complete


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no a=ice-ufrag"),
        ("a=ice-ufrag:abcd\n", "no a=ice-pwd"),
        ("a=ice-ufrag:abc\na=ice-pwd:" + "p" * 22, "line 1: a=ice-ufrag takes 4 to 256"),
        ("a=ice-ufrag:abcd\na=ice-pwd:short", "line 2: a=ice-pwd takes 22 to 256"),
        ("a=ice-ufrag:ab d\n", "line 1: a=ice-ufrag takes"),
        (fragment() + "a=ice-ufrag:other\n", "a second, other a=ice-ufrag"),
        (fragment() + "a=candidate:\n", "is no candidate"),
        (fragment() + "a=candidate:1 1 udp 1 192.0.2.1 99999999 typ host\n", "is no candidate"),
        (fragment() + "hello\n", "is no SDP line"),
        (fragment() + "a=x\n" * 600, "at most 512"),
        (
            fragment() + "".join(f"a=candidate:{n} 1 udp 1 192.0.2.1 9 typ host\n" for n in range(65)),
            "at most 64",
        ),
    ],
)
def test_a_wrong_fragment_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(BadFragment) as refused:
        parse(text)
    assert told in str(refused.value) and len(str(refused.value)) < 200


def test_credentials_of_a_whole_offer() -> None:
    assert credentials_of(OFFER) == (UFRAG, PWD) and ufrag_of(OFFER) == UFRAG
    assert credentials_of("v=0\r\n") == ("", "") and ufrag_of("a=ice-ufrag: \r\n") == ""


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200), st.integers(0, 400))
def test_any_text_is_read_or_refused(text: str, at: int) -> None:
    for whole in (text, RFC8840_9[:at] + text + RFC8840_9[at:]):
        try:
            read = parse(whole)
        except BadFragment:
            continue
        assert len(read.ufrag) >= 4 and len(read.pwd) >= 22 and len(read.candidates) <= 64


@pytest.mark.skipif(not SEEDS.is_dir(), reason="../shared/data with fuzzing seeds is not here")
def test_fuzzing_seeds_are_read_or_refused() -> None:
    dice, read = random.Random(3), 0
    for file in sorted(SEEDS.iterdir()):
        seed = file.read_bytes()[:32_768]
        for _ in range(10):
            body = bytearray(seed)
            for _ in range(dice.randrange(6)):
                body[dice.randrange(len(body))] = dice.randrange(256)
            try:
                parse(body.decode("latin-1"))
                read += 1
            except BadFragment:
                pass
            credentials_of(body.decode("latin-1"))
    assert read > 0  # some of the seeds have ICE credentials
