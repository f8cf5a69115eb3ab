"""The transport's edges that need no browser: a handshake that never ends, and who may be heard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pylibsrtp
import pytest
from aiortc import RTCCertificate, RTCDataChannel

from gateway.webrtc import transport
from gateway.webrtc.dtls_door import MAX_SOURCES, MAX_SRTP_BYTES, Sources
from gateway.webrtc.offer import Offer, read_offer
from gateway.webrtc.transport import MOST_HELD, Transport, TransportCounters
from media.rtp import RtpPacket
from tests.support.ice_peer import check, reachable, running

CHROMIUM = (Path(__file__).parent / "chromium-156.sdp").read_bytes().decode()


class Ears:
    """`transport.Events` that remember."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []
        self.arrivals_ns: list[int] = []
        self.reason = ""
        self.over = asyncio.Event()

    def connected(self) -> None: ...
    def rtp(self, packet: RtpPacket, arrival_ns: int) -> None:
        self.packets.append(packet)
        self.arrivals_ns.append(arrival_ns)

    def rtcp(self, data: bytes, arrival_ns: int) -> None: ...
    def channel_opened(self, wire: RTCDataChannel) -> None: ...
    def away(self) -> None: ...
    def back(self) -> None: ...
    def closed(self, reason: str) -> None:
        self.reason = reason
        self.over.set()


def keys(kind: int) -> pylibsrtp.Session:
    return pylibsrtp.Session(pylibsrtp.Policy(key=bytes(30), ssrc_type=kind))


@contextlib.asynccontextmanager
async def keyed() -> AsyncIterator[tuple[Transport, Ears, Callable[[bytes], bytes]]]:
    """A transport that has its keys, its ears, and what protects packets for it."""
    async with running() as server:
        ears, counters, connection = Ears(), TransportCounters(), server.new_connection()
        one = Transport(connection, RTCCertificate.generateCertificate(), offer(), ears, counters)
        one.keyed(keys(pylibsrtp.Policy.SSRC_ANY_INBOUND), keys(pylibsrtp.Policy.SSRC_ANY_OUTBOUND))
        yield one, ears, keys(pylibsrtp.Policy.SSRC_ANY_OUTBOUND).protect
        await one.close("over")


def rtp(sequence: int, *, ssrc: int = 1, kind: int = 111) -> bytes:
    return RtpPacket(kind, sequence, 960 * sequence, ssrc, b"x").serialise()


def offer() -> Offer:
    read = read_offer(CHROMIUM, want_video=True)
    assert isinstance(read, Offer)
    return read


def test_a_browser_that_never_shakes_hands_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HANDSHAKE_S", 0.2)

    async def story() -> None:
        async with running() as server:
            ears, counters, connection = Ears(), TransportCounters(), server.new_connection()
            one = Transport(connection, RTCCertificate.generateCertificate(), offer(), ears, counters)
            await one.gather()
            one.start()
            loop = asyncio.get_running_loop()
            browser, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("127.0.0.1", server.udp_port)
            )
            browser.sendto(check(connection, remote=offer().transport.ufrag))
            async with asyncio.timeout(5):
                await ears.over.wait()
            assert "handshake" in ears.reason and counters.handshakes_timed_out == 1
            assert server.connections == 0  # its place is free
            browser.close()

    asyncio.run(story())


def test_a_browser_has_few_sources_and_long_packets_do_not_raise() -> None:
    async def story() -> None:
        async with keyed() as (one, ears, protect):
            receive = one.connection.on_rtp
            assert receive is not None
            for ssrc in range(2 * MAX_SOURCES):
                receive(protect(rtp(1, ssrc=ssrc)), 1)
            one.flush()
            assert len(ears.packets) == one.counters.sources_refused == MAX_SOURCES
            for wrong in (bytes([0x80, 111]) + bytes(2000), bytes([0x80, 111]) + bytes(10)):
                receive(wrong, 1)
            one.flush()
            assert one.counters.srtp_refused == 2

    asyncio.run(story())


def test_speech_in_order_waits_for_more_of_it_and_keeps_its_time() -> None:
    async def story() -> None:
        async with keyed() as (one, ears, protect):
            receive = one.connection.on_rtp
            assert receive is not None
            for sequence in range(MOST_HELD + 2):  # the first says nothing of what was before it
                receive(protect(rtp(sequence)), 20 * sequence)
                assert len(ears.packets) == (1 if sequence < MOST_HELD else 1 + MOST_HELD)
            one.flush()
            assert [p.sequence for p in ears.packets] == list(range(MOST_HELD + 2))
            assert ears.arrivals_ns == [20 * sequence for sequence in range(MOST_HELD + 2)]
            receive(protect(rtp(100)), 1)  # a gap is told at once: what is missing has to be asked for
            assert ears.packets[-1].sequence == 100
            receive(protect(rtp(101)), 2)
            receive(protect(rtp(1, ssrc=9, kind=96)), 3)  # pictures do not wait
            assert [p.payload_type for p in ears.packets[-2:]] == [111, 96]
            receive(protect(rtp(99)), 4)
            assert [p.sequence for p in ears.packets[-2:]] == [101, 99]

    asyncio.run(story())


def test_what_waits_is_heard_when_the_transport_closes() -> None:
    async def story() -> None:
        async with keyed() as (one, ears, protect):
            receive = one.connection.on_rtp
            assert receive is not None
            for sequence in (1, 2, 3):
                receive(protect(rtp(sequence)), 1)
            await one.close("over")
            assert [p.sequence for p in ears.packets] == [1, 2, 3]

    asyncio.run(story())


def test_what_dtls_and_libsrtp_cannot_take_does_not_reach_them() -> None:
    record = bytes([23, 254, 253]) + bytes(8) + b"\0\1x"
    report = bytes([0x80, 200, 0, 1, 0, 0, 0, 7]) + bytes(60)

    async def story() -> None:
        async with running() as server:
            counters, sources, connection = TransportCounters(), Sources(), await reachable(server)
            ice = transport._Ice(connection, sources, counters)
            for data in (record * 3, report + bytes(MAX_SRTP_BYTES), report):
                connection.receive(data, 0)
            heard = [await ice._recv() for _ in range(4)]
            assert heard == [record, record, record, report]
            assert counters.srtp_refused == 1
            for number in range(MAX_SOURCES):
                sources.note(bytes([9, 9, 9, number]))
            connection.receive(report, 0)
            connection.receive(report[:4] + bytes([9, 9, 9, 3]) + report[8:], 0)
            assert (await ice._recv())[4:8] == bytes([9, 9, 9, 3]) and counters.sources_refused == 1

    asyncio.run(story())


def test_the_length_is_libsrtps() -> None:
    policy = pylibsrtp.Policy(key=bytes(30), ssrc_type=pylibsrtp.Policy.SSRC_ANY_INBOUND)
    session = pylibsrtp.Session(policy)
    for unprotect in (session.unprotect, session.unprotect_rtcp):
        with pytest.raises(pylibsrtp.Error):
            unprotect(b"\x80\xc8" + bytes(MAX_SRTP_BYTES - 2))
        with pytest.raises(ValueError):
            unprotect(b"\x80\xc8" + bytes(MAX_SRTP_BYTES - 1))
