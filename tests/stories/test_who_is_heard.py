"""Somebody else sends RTP into a live call: who is heard, and where the gateway sends, by `rtp_source`."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from gateway.caller.stream import open_rtp_socket
from gateway.sip.pj.source import LEARN_ANEW_NS, address_of, hear_only
from gateway.sip.trunks import Trunk
from loadtests.ports import free_port
from tests.support.own_gateway import OwnGateway
from tests.support.raw_call import RawCall

pytestmark = pytest.mark.processes
LOUD = b"\x00\x80" * 80  # mu-law: -32124, 32124, 20 ms
HEADER = struct.Struct("!BBHII")


class Stranger:
    """Sends bursts of loud packets at a call's port, and counts what comes back."""

    def __init__(self, at: tuple[str, int], first: int = 0) -> None:
        self._at, self._first = at, first
        self.got = 0
        self._socket = open_rtp_socket(at[0])
        self._socket.setblocking(False)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        number = self._first
        while not self._done.wait(0.1):
            for _ in range(60):  # far more than one of the caller's comes between
                number += 1
                head = HEADER.pack(0x80, 0, number & 0xFFFF, number * 160 & 0xFFFFFFFF, 0x5757)
                self._socket.sendto(head + LOUD, self._at)
            while True:
                try:
                    self._socket.recv(2048)
                    self.got += 1
                except BlockingIOError:
                    break

    @contextmanager
    def sending(self) -> Iterator[Stranger]:
        self._thread.start()
        try:
            yield self
        finally:
            self._done.set()
            self._thread.join()
            self._socket.close()


@contextmanager
def gateway() -> Iterator[OwnGateway]:
    """Number 1 is of a trunk that locks, 2 of one that goes by the SDP, 3 of one that learns."""
    policies = {"1": "lock", "2": "sdp", "3": "learn"}
    trunks = {policy: Trunk(inbound_user=policy, inbound_password="x" * 12, rtp_source=policy)  # type: ignore[arg-type]
              for policy in policies.values()}  # fmt: skip
    trunks["here"] = Trunk(hosts=("127.0.0.1",))
    rules = tuple({"called": number, "trunk": policy} for number, policy in policies.items())
    with OwnGateway.start(rtp_port=43_000, trunks=trunks, rules=rules) as own:
        yield own


def attack(own: OwnGateway, number: str, sound_host: str = "127.0.0.1") -> tuple[int, int]:
    """Packets that caller and stranger got in the last half second of the attack."""
    with RawCall(own.uri.replace("sip:", f"sip:{number}@"), sound_host) as call:
        call.talk(1.4)
        assert call.audio is not None
        with Stranger((call.audio.host, call.audio.port)).sending() as stranger:
            call.talk(0.6)
            before = stranger.got
            got = call.talk(0.5)
            return got, stranger.got - before


def test_a_stranger_is_heard_where_sources_are_learned_alone() -> None:
    with gateway() as own, own.watch() as watch, ThreadPoolExecutor(3) as pool:
        told = [pool.submit(attack, own, number) for number in "123"]
        while not all(one.done() for one in told):
            watch.look()
        loud = {slot for slot, pcm in watch.sound if int(np.abs(pcm.astype(int)).max()) > 30_000}
        assert len({slot for slot, _ in watch.sound}) == 3 and len(loud) == 1, "callers are silent"
    locked, by_sdp, learned = (one.result() for one in told)
    assert locked[1] == by_sdp[1] == 0 and min(locked[0], by_sdp[0]) > 15
    assert learned[0] == 0 and learned[1] > 15, "what pjmedia does by itself"


def test_a_caller_who_sends_from_elsewhere_without_a_word_is_heard_again_and_nobody_beside_it() -> None:
    """As when its NAT has forgotten it. Nothing is said of `rtp_source`: this is what callers get."""
    with OwnGateway.start(rtp_port=43_000) as own, RawCall(own.uri) as call:
        assert call.talk(2.0) > 50
        before, call._rtp = call._rtp, open_rtp_socket("127.0.0.1")
        before.close()
        assert call.talk(1.0) == 0, "what it was locked to is somebody else's now"
        call.talk(LEARN_ANEW_NS / 1e9 + 3.0)  # looks come once a second; the last of them locks it again
        assert call.talk(1.0) > 40
        assert call.audio is not None
        with Stranger((call.audio.host, call.audio.port)).sending() as stranger:
            call.talk(0.6)
            before_us = stranger.got
            assert call.talk(0.5) > 15 and stranger.got == before_us


@pytest.mark.long
@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_a_caller_who_holds_moves_and_goes_away_for_a_moment_is_heard_again(number: str) -> None:
    with gateway() as own, RawCall(own.uri.replace("sip:", f"sip:{number}@")) as call:
        assert call.talk(1.5) > 50
        assert call.negotiate("sendonly") == call.negotiate("sendrecv") == 200
        assert call.talk(1.5) > 50, "after hold"
        before, call._rtp = call._rtp, open_rtp_socket("127.0.0.1")
        before.close()
        assert call.negotiate("sendrecv") == 200
        assert call.talk(1.5) > 50, "at another port, as its SDP has said"
        at = call._rtp.getsockname()
        call._rtp.close()
        time.sleep(1.0)  # every packet of ours is refused (ICMP)
        call._rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        call._rtp.bind(at)
        call.talk(0.5)
        assert call.talk(1.0) > 40, "it was gone for a moment"


@pytest.mark.long
def test_a_caller_behind_nat_is_known_by_where_it_sends_from() -> None:
    """It sends from another port than its SDP says, and one packet of somebody else comes in between."""
    with (
        gateway() as own,
        RawCall(own.uri.replace("sip:", "sip:1@")) as call,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        told, call._rtp = call._rtp, open_rtp_socket("127.0.0.1")
        assert call.audio is not None
        at = (call.audio.host, call.audio.port)
        for _ in range(30):
            call.talk(0.1)
            other.sendto(HEADER.pack(0x80, 0, 7, 7, 7) + LOUD, at)
        with Stranger(at).sending() as stranger:
            call.talk(0.6)
            before = stranger.got
            assert call.talk(0.5) > 15 and stranger.got == before
        told.close()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")])
def test_descriptors_of_others_are_left_alone(family: socket.AddressFamily, host: str) -> None:
    with (
        socket.socket(family, socket.SOCK_DGRAM) as here,
        socket.socket(family, socket.SOCK_DGRAM) as peer,
        socket.socket(family, socket.SOCK_DGRAM) as other,
    ):
        for one in (peer, other):
            one.bind((host.strip("[]"), 0))
        here.bind((host.strip("[]"), free_port()))
        here.settimeout(5.0)
        name = f"{host}:{here.getsockname()[1]}"
        open_before = sorted(os.listdir("/proc/self/fd"))
        assert hear_only(name, peer.getsockname()[:2])
        other.sendto(b"other", here.getsockname())
        peer.sendto(b"peer", here.getsockname())
        assert here.recv(16) == b"peer"
        assert hear_only(name, None)
        other.sendto(b"other", here.getsockname())
        assert here.recv(16) == b"other"
        assert not hear_only(f"{host}:1", peer.getsockname()[:2]) and not hear_only("[::2]:4000", None)
        assert sorted(os.listdir("/proc/self/fd")) == open_before
    named = (
        "0.0.0.0:4",
        "",
        "x:1",
        "10.0.0.1:0",
        "10.0.0.1:9",
        "[::]:4",
        "2001:db8::1:9",
        "[2001:DB8:0::1]:9",
    )
    assert [address_of(name) for name in named] == [
        None, None, None, None, ("10.0.0.1", 9), None, None, ("2001:db8::1", 9),
    ]  # fmt: skip
