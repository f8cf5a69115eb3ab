# SPDX-License-Identifier: GPL-3.0-or-later
"""Digest, by the examples of its RFCs, and a doorman whom nobody passes twice with one answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sip.digest import (
    NONCE_NS,
    Challenge,
    Doorman,
    Login,
    answered_anew,
    authorization,
    challenge_of,
    parameters,
    response_of,
)

MUFASA = Login("Mufasa", "Circle of Life")
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
CARRIER = Login("carrier", "a secret of theirs")


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_example_of_rfc_7616(algorithm: str, expected: str) -> None:
    told = response_of(
        algorithm,
        MUFASA,
        "http-auth@example.org",
        NONCE,
        "GET",
        "/dir/index.html",
        "auth",
        "00000001",
        CNONCE,
    )
    assert told == expected


def test_example_of_rfc_2617() -> None:
    login = Login("Mufasa", "Circle Of Life")
    told = response_of(
        "MD5", login, "testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093", "GET", "/dir/index.html",
        "auth", "00000001", "0a4f113b",
    )  # fmt: skip
    assert told == "6629fae49393a05397450978507c4ef1"


def test_the_first_challenge_that_we_know() -> None:
    found = challenge_of(
        [
            b'Digest realm="a", nonce="x", algorithm=SHA-1024',
            b'Basic realm="a"',
            b'Digest realm="a", nonce="n1", algorithm=SHA-256, qop="auth-int,auth", opaque="o,\\"p"',
            b'Digest realm="a", nonce="n2"',
        ]
    )
    assert found == Challenge("a", "n1", "SHA-256", "auth", 'o,"p')
    assert challenge_of([b'Digest realm="a", nonce="x", qop="auth-int"']) is None
    assert challenge_of([b'DIGEST  Realm = a ,Nonce="x" ,stale=TRUE']) == Challenge("a", "x", stale=True)


def test_what_somebody_else_answered_is_answered_anew() -> None:
    challenge = Challenge("pbx", "n", "MD5", "auth", "o")
    theirs = authorization(challenge, Login("microturn", "-"), "INVITE", "sip:call-1@127.0.0.1", 3, "c")
    ours = answered_anew(theirs, CARRIER, "INVITE", "sip:49@pbx")
    assert ours is not None
    told = parameters(ours)
    assert (told["username"], told["uri"], told["nc"]) == ("carrier", "sip:49@pbx", "00000003")
    expected = response_of("MD5", CARRIER, "pbx", "n", "INVITE", "sip:49@pbx", "auth", "00000003", "c")
    assert told["response"] == expected and told["opaque"] == "o"
    assert answered_anew(b"Basic xyz", CARRIER, "INVITE", "sip:49@pbx") is None


def doorman() -> Doorman:
    return Doorman(b"k" * 32, "microturn", {"carrier": ("acme", CARRIER)})


def asked(man: Doorman, now_ns: int = 0) -> list[Challenge]:
    found = [challenge_of([header.value]) for header in man.challenges(now_ns)]
    return [challenge for challenge in found if challenge is not None]


def test_who_reads_one_challenge_alone_finds_md5() -> None:
    assert [challenge.algorithm for challenge in asked(doorman())] == ["MD5", "SHA-256"]


@pytest.mark.parametrize("which", [0, 1])
def test_who_answers_well_is_known_once(which: int) -> None:
    man = doorman()
    challenge = asked(man)[which]
    answer = authorization(challenge, CARRIER, "INVITE", "sip:x@y", 1, "c")
    assert man.who([answer], "INVITE", 5) == "acme"
    assert man.who([answer], "INVITE", 6) is None, "replayed"
    assert man.who([authorization(challenge, CARRIER, "INVITE", "sip:x@y", 2, "c")], "INVITE", 7) == "acme"


def test_who_does_not() -> None:
    man = doorman()
    challenge = asked(man)[0]
    for login in (Login("carrier", "guess"), Login("nobody", CARRIER.password), Login("", "")):
        assert man.who([authorization(challenge, login, "INVITE", "sip:x@y", 1)], "INVITE", 5) is None
    good = authorization(challenge, CARRIER, "INVITE", "sip:x@y", 1)
    assert man.who([good], "BYE", 5) is None
    assert man.who([good.replace(b"qop=auth", b"qop=auth-int")], "INVITE", 5) is None
    forged = Challenge("microturn", "0" * 16 + "f" * 32, "MD5", "auth")
    assert man.who([authorization(forged, CARRIER, "INVITE", "sip:x@y", 1)], "INVITE", 5) is None
    assert man.who([], "INVITE", 5) is None


def test_an_old_nonce_is_stale_and_a_strange_one_is_not() -> None:
    man = doorman()
    good = authorization(asked(man)[0], CARRIER, "INVITE", "sip:x@y", 1)
    assert man.who([good], "INVITE", NONCE_NS) is None
    assert man.is_stale([good], "INVITE")
    assert not man.is_stale([authorization(Challenge("microturn", "x"), CARRIER, "INVITE", "u")], "INVITE")
    wrong = authorization(asked(man)[0], Login("carrier", "guess"), "INVITE", "sip:x@y", 1)
    assert not man.is_stale([wrong], "INVITE"), (
        "who guesses would be let try for ever without a word to its user"
    )


@given(st.binary(max_size=200))
def test_no_bytes_of_a_peer_raise(octets: bytes) -> None:
    parameters(b"Digest " + octets)
    challenge_of([b"Digest " + octets])
    assert doorman().who([b"Digest " + octets], "INVITE", 1) is None
    answered_anew(b"Digest realm=a,nonce=b," + octets, CARRIER, "INVITE", "u")
