"""libsrtp by way of pylibsrtp's private names: this fails on an upgrade that changes them."""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable

import pylibsrtp
import pytest

from gateway.webrtc.dtls_door import MAX_SRTP_BYTES
from gateway.webrtc.srtp import Process, protector, refuse, rtcp_protector, unprotector

POLICY = pylibsrtp.Policy
KEYS = {POLICY.SRTP_PROFILE_AES128_CM_SHA1_80: 30, POLICY.SRTP_PROFILE_AEAD_AES_128_GCM: 28}


def session(profile: int, kind: int) -> pylibsrtp.Session:
    policy = POLICY(key=bytes(range(KEYS[profile])), ssrc_type=kind, srtp_profile=profile)
    return pylibsrtp.Session(policy)


def ends(profile: int = POLICY.SRTP_PROFILE_AES128_CM_SHA1_80) -> tuple[pylibsrtp.Session, pylibsrtp.Session]:
    return session(profile, POLICY.SSRC_ANY_OUTBOUND), session(profile, POLICY.SSRC_ANY_INBOUND)


def packet(sequence: int, payload: bytes = b"speech") -> bytes:
    return struct.pack("!BBHII", 0x80, 111, sequence, 960 * sequence, 7) + payload


@pytest.mark.parametrize("profile", KEYS)
def test_what_one_protects_the_other_reads_and_so_does_pylibsrtp(profile: int) -> None:
    (sending, receiving), (_, theirs) = ends(profile), ends(profile)
    protect, unprotect = protector(sending), unprotector(receiving)
    for sequence in range(50):
        plain = packet(sequence, bytes(sequence))
        datagram = protect(plain)
        assert datagram != plain and unprotect(datagram) == plain == theirs.unprotect(datagram)


def test_rtcp_is_protected_as_pylibsrtp_reads_it() -> None:
    sending, receiving = ends()
    report = struct.pack("!BBHII", 0x80, 201, 1, 7, 0)[:8]
    assert receiving.unprotect_rtcp(rtcp_protector(sending)(report)) == report


def test_what_is_not_authentic_or_was_here_before_comes_back_empty() -> None:
    sending, receiving = ends()
    protect, unprotect = protector(sending), unprotector(receiving)
    datagram = protect(packet(1))
    assert unprotect(datagram[:-1] + bytes([datagram[-1] ^ 1])) == b""
    assert unprotect(datagram) == packet(1)
    assert unprotect(datagram) == b""  # replayed
    for wrong in (b"", b"\x80", bytes(12), bytes(40), datagram[:13]):
        assert unprotect(wrong) == b""
    assert unprotect(protect(packet(2))) == packet(2)


@pytest.mark.parametrize("maker", [protector, rtcp_protector, unprotector])
def test_a_packet_that_does_not_fit_is_refused(maker: Callable[[pylibsrtp.Session], Process]) -> None:
    sending, _ = ends()
    assert maker(sending)(b"\x80\x6f" + bytes(MAX_SRTP_BYTES - 1)) == b""


def test_the_session_lives_as_long_as_who_may_use_it() -> None:
    protect, unprotect = protector(ends()[0]), unprotector(ends()[1])
    gc.collect()
    assert unprotect(protect(packet(3))) == packet(3)


def test_without_keys_nothing_passes() -> None:
    assert refuse(packet(1)) == b""
