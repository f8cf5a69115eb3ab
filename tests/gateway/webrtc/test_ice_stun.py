"""Binding requests against RFC 5769, against aioice, and against bytes that mean harm."""

from __future__ import annotations

import random
import struct

import pytest
from aioice import stun

from gateway.webrtc import ice_stun
from tests.support.ice_peer import needs_stun_seeds, stun_seeds

PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
# RFC 5769 2.1, sample request
SAMPLE = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae80220010"
    "5354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)


def request(*, sign: bytes = PASSWORD, **attributes: object) -> bytes:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, bytes(range(12)))
    message.attributes.update({name.replace("_", "-"): value for name, value in attributes.items()})
    message.add_message_integrity(sign) if sign else message.add_fingerprint()
    return bytes(message)


def with_attribute(kind: int, value: bytes = b"") -> bytes:
    """A signed request that has one more attribute in front."""
    return ice_stun._message(
        ice_stun.BINDING_REQUEST,
        bytes(12),
        ice_stun._attribute(kind, value) + ice_stun._attribute(ice_stun.USERNAME, b"ab:cd"),
        PASSWORD,
    )


def test_the_sample_of_rfc_5769_is_read_and_authentic() -> None:
    read = ice_stun.read_request(SAMPLE)
    assert read is not None
    assert (read.local_ufrag, read.remote_ufrag) == (b"evtj", b"h6vY")
    assert read.is_controlled and not read.use_candidate and read.unknown == ()
    assert read.is_signed_by(PASSWORD) and not read.is_signed_by(PASSWORD[:-1])


def test_requests_of_aioice_are_read() -> None:
    data = request(USERNAME="ab:cd", PRIORITY=1, ICE_CONTROLLING=2, USE_CANDIDATE=None)
    read = ice_stun.read_request(data)
    assert read is not None and read.use_candidate and not read.is_controlled
    assert read.username == b"ab:cd" and read.transaction_id == bytes(range(12))
    assert read.is_signed_by(PASSWORD)


@pytest.mark.parametrize("address", [("192.0.2.1", 32853), ("2001:db8:1234:5678:11:2233:4455:6677", 32853)])
def test_aioice_reads_the_success(address: tuple[str, int]) -> None:
    read = ice_stun.read_request(SAMPLE)
    assert read is not None
    answer = stun.parse_message(ice_stun.success(read, address, PASSWORD))
    assert answer.message_class == stun.Class.RESPONSE and answer.transaction_id == read.transaction_id
    assert answer.attributes["XOR-MAPPED-ADDRESS"] == address
    assert "FINGERPRINT" in answer.attributes and answer.check_message_integrity(PASSWORD)


@pytest.mark.parametrize(("code", "signed"), [(400, False), (401, False), (420, True), (487, True)])
def test_aioice_reads_the_errors(code: int, signed: bool) -> None:
    read = ice_stun.read_request(with_attribute(0x7FFF))
    assert read is not None
    answer = stun.parse_message(ice_stun.error(read, code, PASSWORD if signed else b""))
    assert answer.message_class == stun.Class.ERROR and answer.error_code == code
    assert answer.check_message_integrity(PASSWORD) is signed


@pytest.mark.parametrize(("kind", "unknown"), [(0x7FFF, (0x7FFF,)), (0xC057, ()), (0x0014, ())])
def test_only_required_attributes_may_be_unknown(kind: int, unknown: tuple[int, ...]) -> None:
    read = ice_stun.read_request(with_attribute(kind, b"xyz"))
    assert read is not None and read.unknown == unknown and read.is_signed_by(PASSWORD)


def test_attributes_behind_the_integrity_are_ignored() -> None:
    signed = request(USERNAME="ab:cd")[: -ice_stun.FINGERPRINT_BYTES]
    appended = signed + ice_stun._attribute(ice_stun.USE_CANDIDATE, b"")
    appended = appended[:2] + (len(appended) - 20 + 8).to_bytes(2, "big") + appended[4:]
    data = appended + bytes.fromhex("80280004") + ice_stun._fingerprint(appended).to_bytes(4, "big")
    read = ice_stun.read_request(data)
    assert read is not None and read.is_signed_by(PASSWORD) and not read.use_candidate


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SAMPLE[:19],
        SAMPLE[:-8],
        SAMPLE[:-4],
        SAMPLE + b"\0\0\0\0",
        SAMPLE[:4] + b"ABCD" + SAMPLE[8:],
        SAMPLE[:-1] + b"\0",
        b"\x01\x01" + SAMPLE[2:],
    ],
    ids=["empty", "short", "no fingerprint", "cut", "longer", "no cookie", "wrong fingerprint", "an answer"],
)
def test_what_is_no_request_is_none(data: bytes) -> None:
    assert ice_stun.read_request(data) is None


def test_a_length_beyond_the_message_is_refused() -> None:
    body = bytes.fromhex("00060040") + b"ab:c"
    before = bytes.fromhex("000100102112a442") + bytes(12) + body
    data = before + bytes.fromhex("80280004") + ice_stun._fingerprint(before).to_bytes(4, "big")
    assert len(data) == 36 and ice_stun.read_request(data) is None


def test_reading_agrees_with_aioice_on_mutated_requests() -> None:
    """Mutated, then signed again: what both can read, both read alike, and both find authentic."""
    random.seed(8489)
    base = request(USERNAME="abcd:efgh", PRIORITY=1, ICE_CONTROLLING=2, USE_CANDIDATE=None)
    body = base[20 : -ice_stun.INTEGRITY_BYTES - ice_stun.FINGERPRINT_BYTES]
    read_by_both = 0
    for _ in range(3_000):
        mutated = bytearray(body)
        mutated[random.randrange(len(body))] = random.randrange(256)
        data = ice_stun._message(ice_stun.BINDING_REQUEST, bytes(12), bytes(mutated), PASSWORD)
        ours = ice_stun.read_request(data)
        try:
            theirs = stun.parse_message(data)
        except (ValueError, struct.error):
            continue
        if ours is None or not ours.integrity_at or mutated.count(b"\0\6") > 1:
            continue  # of two USERNAMEs aioice takes the last, we the first (RFC 8489 14)
        read_by_both += 1
        assert ours.is_signed_by(PASSWORD) and theirs.check_message_integrity(PASSWORD)
        assert theirs.attributes.get("USERNAME", "").encode() == ours.username
        assert ("USE-CANDIDATE" in theirs.attributes) == ours.use_candidate
    assert read_by_both > 1_000


@needs_stun_seeds
def test_seeds_of_others_and_their_mutations_never_raise() -> None:
    random.seed(5769)
    seeds = stun_seeds()
    for _ in range(10_000):
        data = bytearray(random.choice(seeds))
        for _ in range(random.randrange(4)):
            data[random.randrange(len(data))] = random.randrange(256)
        cut = bytes(data[: random.randrange(len(data) + 1)]) if random.random() < 0.2 else bytes(data)
        if random.random() < 0.5 and len(cut) > 28:  # past the fingerprint, to what is behind it
            before = cut[:2] + (len(cut) - 20).to_bytes(2, "big") + cut[4:-8]
            cut = before + bytes.fromhex("80280004") + ice_stun._fingerprint(before).to_bytes(4, "big")
        read = ice_stun.read_request(cut)
        assert read is None or not read.is_signed_by(b"not this one")
