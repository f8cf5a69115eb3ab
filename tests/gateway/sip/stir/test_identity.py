"""Identity headers: what is claimed against what the INVITE says, and whatever else may be sent."""

from __future__ import annotations

import base64
import dataclasses
import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.sip.message import Request, parse
from gateway.sip.stir.identity import Claim, claim_of, is_signed, number_of
from gateway.sip.stir.verdict import STATUS, Distrust, StirCounters, Verdict
from tests.support.call_signers import ANNA, BERT, URL, identity, new_key, passport
from tests.support.sip_router import request as message

NOW_S = 1_800_000_000.0
FRESH_S = 60
KEY = new_key()


def invite(
    *values: str, caller: str = f"<sip:+{ANNA}@a>", called: str = f"<sip:+{BERT}@b>", more: bytes = b""
) -> Request:
    extra = b"".join(b"Identity: %b\r\n" % value.encode() for value in values) + more
    data = message(extra=extra).replace(b"From: <sip:alice@x>", f"From: {caller}".encode())
    parsed = parse(data.replace(b"To: <sip:bot@x>", f"To: {called}".encode()))
    assert isinstance(parsed, Request)
    return parsed


def why(*values: str, now_s: float = NOW_S, **options: str) -> str:
    """Of a header that is not believed; "" for one whose claims hold."""
    try:
        claim_of(invite(*values, **options), FRESH_S, now_s)  # type: ignore[arg-type]
    except Distrust as wrong:
        return wrong.why
    return ""


def signed(**options: object) -> str:
    return identity(passport(KEY, NOW_S, **options))  # type: ignore[arg-type]


def coded(what: object) -> str:
    text = what if isinstance(what, bytes) else json.dumps(what).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def test_a_passport_in_its_full_form_with_its_signature() -> None:
    token = passport(KEY, NOW_S, attest="B")
    claim = claim_of(invite(identity(token)), FRESH_S, NOW_S)
    assert claim == Claim(token, URL, "B", ANNA)
    assert is_signed(claim, KEY.public_key()) and not is_signed(claim, new_key().public_key())
    head, _, signature = token.split(".")
    forged = Claim(f"{head}.{coded({'attest': 'A'})}.{signature}", URL, "A", ANNA)
    assert not is_signed(forged, KEY.public_key())


def test_without_a_header_there_is_nothing_to_say() -> None:
    assert claim_of(invite(), FRESH_S, NOW_S) is None


@pytest.mark.parametrize(
    "params", ["", ";ppt=shaken", ';alg=ES256;ppt="shaken"', " ; alg = ES256 ; ppt=shaken;later=1"]
)
def test_parameters_in_all_ways_of_writing(params: str) -> None:
    assert why(identity(passport(KEY, NOW_S), params=params)) == ""


@pytest.mark.parametrize(
    ("age_s", "expected"), [(0, ""), (59, ""), (-59, ""), (61, "stale"), (-61, "stale"), (1e9, "stale")]
)
def test_a_signature_is_good_for_a_minute_either_way(age_s: float, expected: str) -> None:
    assert why(identity(passport(KEY, NOW_S - age_s))) == expected


@pytest.mark.parametrize(
    ("caller", "more", "expected"),
    [
        (f"<sip:+{ANNA}@a>", "", ""),
        (f'"Anna" <sip:{ANNA}@a;user=phone>', "", ""),
        ("<sip:+1-215-555-1212;phone-context=x@a>", "", ""),
        ("<tel:+1(215)555-1212;ext=3>", "", ""),
        (f"sip:+{ANNA}@a", "", ""),
        ("<sip:%2B12155551212@a>", "", ""),
        (f"<sip:+{BERT}@a>", "", "orig"),
        ("<sip:anna@a>", "", "orig"),
        (f"<sip:{ANNA}>", "", "orig"),  # a host, and no number
        (f'"<sip:+{ANNA}@a>" <sip:+{BERT}@a>', "", "orig"),  # in a display name
        ('"Anonymous" <sip:anonymous@anonymous.invalid>', f"<tel:+{ANNA}>", ""),
        ('"Anonymous" <sip:anonymous@anonymous.invalid>', f"<sip:x@a>, <sip:+{ANNA}@a>", ""),
        (f"<sip:+{BERT}@a>", f"<sip:+{ANNA}@a>", "orig"),  # who is shown is not who was signed
        (f"<sip:+{ANNA}@a>", f"<sip:+{BERT}@a>", ""),
    ],
)
def test_who_calls_is_who_was_signed(caller: str, more: str, expected: str) -> None:
    extra = f"P-Asserted-Identity: {more}\r\n".encode() if more else b""
    try:
        claim_of(invite(signed(), caller=caller, more=extra), FRESH_S, NOW_S)
        assert expected == ""
    except Distrust as wrong:
        assert wrong.why == expected


def test_who_is_called_is_who_was_signed() -> None:
    assert why(signed(), called=f"<sip:+{ANNA}@b>") == "dest"
    assert why(signed(claims={"dest": {"tn": [ANNA, f"+{BERT}"]}})) == ""
    assert why(signed(dest="17"), called="<sip:x@b>") == "dest"
    request = invite(signed(), called="<sip:somebody@b>")
    diverted = dataclasses.replace(request, uri=b"sip:+%b@b" % BERT.encode())
    assert claim_of(diverted, FRESH_S, NOW_S) is not None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "header"),
        ("nothing", "header"),
        (f"a.b.c.d;info=<{URL}>", "header"),
        ("a.b.c", "header"),
        (f"a.b.c;info=<{URL}>;info=<{URL}>;ppt=shaken", "header"),
        (f"a.b.c;info=<{URL}>;ppt=shaken;;", "header"),
        (f"!!!.###.c;info=<{URL}>;ppt=shaken", "header"),
        (f"{coded(b'{')}.{coded({})}.c;info=<{URL}>;ppt=shaken", "header"),
        (f"{coded(b'[' * 700)}.{coded({})}.c;info=<{URL}>;ppt=shaken", "header"),
        (f"{coded(bytes([255, 254]))}.{coded({})}.c;info=<{URL}>;ppt=shaken", "header"),
        (f"..{coded(bytes(64))};info=<{URL}>;alg=ES256;ppt=shaken", "compact"),
        (f"..{coded(bytes(64))};info=<{URL}>;alg=ES256", "ppt"),
        (f"a.b.c;info=<{URL}>;ppt=div", "ppt"),
        (f"a.b.c;info=<{URL}>;alg=RS256;ppt=shaken", "algorithm"),
        (identity(passport(KEY, NOW_S), url="https://other.example/a.pem"), "header"),
        (signed(header={"ppt": "div"}), "ppt"),
        (signed(header={"crit": ["x"], "x": 1}), "header"),
        (signed(header={"typ": "JWT"}), "header"),
        (signed(claims={"attest": "D"}), "claims"),
        (signed(claims={"attest": None}), "claims"),
        (signed(claims={"iat": "now"}), "claims"),
        (signed(claims={"iat": 10**400}), "claims"),
        (signed(claims={"iat": -1}), "claims"),
        (signed(claims={"orig": {"uri": "sip:a@b"}}), "claims"),
        (signed(claims={"dest": {"uri": ["sip:a@b"]}}), "claims"),
        (signed(claims={"dest": {"tn": ["1"] * 33}}), "claims"),
        (signed(claims={"origid": ""}), "claims"),
        (identity(passport(b"k" * 32, NOW_S, alg="HS256"), params=""), "algorithm"),
        (identity(passport("", NOW_S, alg="none"), params=""), "header"),  # it has no third part
        (identity(passport("", NOW_S, alg="none") + "AA", params=""), "algorithm"),
    ],
)
def test_what_is_no_passport_that_we_believe(header: str, expected: str) -> None:
    assert why(header) == expected


def test_a_public_key_is_no_secret_of_hs256() -> None:
    head = coded({"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": URL})
    claim = Claim(f"{head}.{coded({})}.{coded(bytes(64))}", URL, "A", ANNA)
    assert not is_signed(claim, KEY.public_key())
    weak = rsa.generate_private_key(65537, 2048)
    token = passport(weak, NOW_S, alg="RS256")
    assert not is_signed(Claim(token, URL, "A", ANNA), weak.public_key())  # type: ignore[arg-type]


def test_another_kind_of_passport_beside_ours_is_passed_over() -> None:
    other = f"a.b.c;info=<{URL}>;ppt=div"
    assert why(other, signed()) == "" and why(signed(), other) == ""
    assert why(*[other] * 4, signed()) == "ppt", "no more than four are looked at"


def test_whatever_is_sent_is_refused_in_a_word_and_never_raised() -> None:
    rng = random.Random(8)
    good = signed().encode()
    for _ in range(2_000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = bytes([rng.randrange(32, 255)])
        assert why(data.decode("latin-1").replace("\x7f", "")) in {"", *STATUS}


def test_every_result_has_a_counter_and_a_status() -> None:
    counters = StirCounters()
    verdicts = [Verdict("", reason) for reason in STATUS] + [
        Verdict("A"),
        Verdict("B"),
        Verdict("C"),
        Verdict(),
    ]
    for verdict in verdicts:
        counters.count(verdict)
    assert sum(getattr(counters, name) for name in counters.__slots__) == len(verdicts)
    refusals = [verdict.refusal for verdict in verdicts]
    assert refusals[-4:] == [None, None, None, (428, "Use Identity Header")]
    assert {refusal[0] for refusal in refusals if refusal} == {403, 428, 436, 437, 438}


@pytest.mark.parametrize(
    ("value", "digits"),
    [("<tel:110>", "110"), ("<sip:*98@x>", "*98"), ("<sip:%23@x>", "#"), ("<mailto:1@x>", ""), ("", ""),
     ("<sip:1234567890123456@x>", ""), ("<sip:12x@y>", "")],
)  # fmt: skip
def test_what_is_a_number(value: str, digits: str) -> None:
    assert number_of(value.encode()) == digits
