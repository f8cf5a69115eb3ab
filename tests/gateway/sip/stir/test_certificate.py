"""Chains of real certificates, and the numbers that they are for."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.sip.stir.certificate import Numbers, read_anchors, read_numbers, trusted
from gateway.sip.stir.verdict import Distrust
from tests.support.call_signers import ANNA, BERT, Authority, der, new_key, pem, tn_auth_list

NOW_S = time.time()
ROOT = Authority(now_s=NOW_S)
ANCHORS = [ROOT.certificate]
KEY = new_key()
SPC = tn_auth_list(provider="709J")


def why(data: bytes, number: str = ANNA, now_s: float = NOW_S) -> str:
    try:
        trusted(data, ANCHORS).check(number, now_s)
    except Distrust as wrong:
        return wrong.why
    return ""


def test_a_leaf_of_the_anchor_and_one_of_an_authority_between_them() -> None:
    assert why(pem(ROOT.leaf(KEY, SPC))) == ""
    assert why(ROOT.leaf(KEY, SPC).public_bytes(serialization.Encoding.DER)) == ""
    between = Authority("between", ROOT, now_s=NOW_S)
    leaf = between.leaf(KEY, SPC)
    assert why(pem(leaf, between.certificate)) == ""
    assert why(pem(leaf, Authority("stranger", now_s=NOW_S).certificate, between.certificate)) == ""
    assert why(pem(leaf)) == "untrusted", "the one between is missing"
    assert trusted(pem(leaf, between.certificate), ANCHORS).key == KEY.public_key()


def test_whom_no_anchor_stands_for() -> None:
    forger = Authority(now_s=NOW_S)  # of the same name
    assert why(pem(forger.leaf(KEY, SPC))) == "untrusted"
    assert why(pem(forger.leaf(KEY, SPC), forger.certificate)) == "untrusted"
    self_signed = Authority("self", key=KEY, is_authority=False, now_s=NOW_S)
    assert why(pem(self_signed.certificate)) == "untrusted"
    clerk = Authority("clerk", ROOT, is_authority=False, now_s=NOW_S)
    assert why(pem(clerk.leaf(KEY, SPC), clerk.certificate)) == "untrusted", "who is no authority signed it"
    short = Authority("short", ROOT, path_length=0, now_s=NOW_S)
    below = Authority("below", short, now_s=NOW_S)
    assert why(pem(below.leaf(KEY, SPC), below.certificate, short.certificate)) == "untrusted"
    odd = (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), True)
    assert why(pem(ROOT.leaf(KEY, SPC, extensions=(odd,)))) == "untrusted", "critical, and not understood"


def test_an_anchor_is_not_one_who_signs_calls() -> None:
    assert why(pem(ROOT.certificate)) == "certificate"


def test_valid_as_long_as_its_whole_chain() -> None:
    assert why(pem(ROOT.leaf(KEY, SPC, NOW_S - 900, NOW_S - 60))) == "expired"
    assert why(pem(ROOT.leaf(KEY, SPC, NOW_S + 60, NOW_S + 900))) == "expired"
    old = Authority("old", ROOT, now_s=NOW_S - 2 * 86_400)
    assert why(pem(old.leaf(KEY, SPC, NOW_S - 60, NOW_S + 60), old.certificate)) == "expired"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (SPC, ""),
        (tn_auth_list(ANNA), ""),
        (tn_auth_list(BERT), "number"),
        (tn_auth_list((ANNA[:-2] + "00", 100)), ""),
        (tn_auth_list((ANNA[:-2] + "00", 12)), "number"),  # 00 to 11
        (tn_auth_list((ANNA[:-2] + "00", 13)), ""),
        (tn_auth_list(BERT, ("1" * 10, 1_000_000_000)), "number"),  # shorter numbers
        (tn_auth_list(BERT, provider="709J"), ""),
        (tn_auth_list(*[str(10_000 + n) for n in range(500)], ANNA), ""),  # lengths in long form
        (None, "tn-list"),
        (b"", "tn-list"),
        (der(0x30, b""), "tn-list"),
        (der(0x30, der(0xA3, b"")), "tn-list"),
        (der(0x30, der(0xA0, der(0x0C, b"709J"))), "tn-list"),
        (der(0x30, der(0xA1, der(0x30, der(0x16, b"1") + der(0x02, b"\xff")))), "tn-list"),
        (b"\x30\x84\xff\xff\xff\xff", "tn-list"),
        (SPC + b"\x00", "tn-list"),
    ],
)  # fmt: skip
def test_which_numbers_it_is_for(numbers: bytes | None, expected: str) -> None:
    assert why(pem(ROOT.leaf(KEY, numbers))) == expected


def test_other_keys_and_other_octets() -> None:
    assert why(pem(ROOT.leaf(rsa.generate_private_key(65537, 2048), SPC))) == "certificate"
    assert why(pem(ROOT.leaf(ec.generate_private_key(ec.SECP384R1()), SPC))) == "certificate"
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    assert why(pem(ROOT.leaf(KEY, SPC, extensions=((usage, True),)))) == "certificate"
    good = pem(ROOT.leaf(KEY, SPC))
    assert why(b"") == why(b"-----BEGIN CERTIFICATE-----") == why(b"<html>") == "certificate"
    assert why(good * 7) == "certificate", "more than six"
    rng = random.Random(3)
    whole = ROOT.leaf(KEY, SPC).public_bytes(serialization.Encoding.DER)
    for _ in range(500):
        broken = bytearray(whole)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        assert why(bytes(broken)) in ("certificate", "untrusted", "tn-list", "expired", "number")


def test_any_octets_for_a_list_of_numbers() -> None:
    rng = random.Random(5)
    whole = tn_auth_list(ANNA, (BERT, 7), provider="709J")
    assert read_numbers(whole) == Numbers(("709J",), ((BERT, 7),), frozenset({ANNA}))
    for _ in range(3_000):
        data = bytearray(whole[: rng.randrange(len(whole) + 1)])
        for _ in range(rng.randrange(3)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read_numbers(bytes(data))
        except ValueError:
            continue


def test_anchors_that_an_operator_may_give(tmp_path: Path) -> None:
    file = tmp_path / "anchors.pem"
    with pytest.raises(ValueError, match="cannot be read"):
        read_anchors(str(file))
    file.write_text("nothing")
    with pytest.raises(ValueError, match="no certificates"):
        read_anchors(str(file))
    file.write_bytes(pem(ROOT.certificate, ROOT.leaf(KEY, SPC)))
    with pytest.raises(ValueError, match="no authority"):
        read_anchors(str(file))
    file.write_bytes(pem(ROOT.certificate))
    assert read_anchors(str(file)) == ANCHORS
