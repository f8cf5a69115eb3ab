"""ICE-lite on real sockets: which path is used, and what becomes of datagrams."""

from __future__ import annotations

import asyncio

import pytest

from gateway.webrtc.ice_connection import MAX_INBOX, MAX_PATHS
from tests.support.ice_peer import (
    DTLS,
    RTCP,
    RTP,
    Clock,
    RawPeer,
    check,
    nominated,
    reachable,
    running,
    settled,
)


def test_only_a_nominated_path_is_used_and_the_peer_may_change_its_mind() -> None:
    async def story() -> None:
        async with running() as server:
            connection, home, street = await reachable(server), RawPeer(server), RawPeer(server)
            await home.ask(check(connection, nominate=False))
            assert not connection.send_now(RTP) and server.counters.unsent == 1
            await home.ask(check(connection))
            assert connection.send_now(RTP) and await home.receive() == RTP
            await street.ask(check(connection, nominate=False))
            assert connection.send_now(RTP) and await home.receive() == RTP
            await street.ask(check(connection))
            assert connection.send_now(RTP) and await street.receive() == RTP and home.heard_nothing()
            home.send(DTLS)
            assert await connection.recv() == DTLS
            assert server.counters.switches == 1
            home.close()
            street.close()

    asyncio.run(story())


def test_a_check_repeated_late_does_not_undo_a_nomination() -> None:
    async def story() -> None:
        async with running() as server:
            connection, home, street = await reachable(server), RawPeer(server), RawPeer(server)
            first = check(connection, transaction_id=b"first-check!")
            await home.ask(first)
            await street.ask(check(connection))
            await home.ask(first)
            assert connection.send_now(RTP) and await street.receive() == RTP and home.heard_nothing()
            home.close()
            street.close()

    asyncio.run(story())


def test_the_paths_of_a_peer_are_bounded_and_the_nominated_one_stays() -> None:
    async def story() -> None:
        clock = Clock()
        async with running(clock=clock) as server:
            peers = [RawPeer(server) for _ in range(MAX_PATHS + 4)]
            connection = await nominated(server, peers[0])
            for peer in peers[1:]:
                clock.pass_s(0.01)
                await peer.ask(check(connection, nominate=False))
            assert server.addresses == MAX_PATHS and server.counters.paths_dropped == 4
            peers[1].send(DTLS + b"dropped")
            peers[0].send(DTLS)
            assert await connection.recv() == DTLS and server.counters.unmatched == 1
            assert connection.send_now(RTP) and await peers[0].receive() == RTP
            for peer in peers:
                peer.close()

    asyncio.run(story())


def test_rtp_is_handed_over_at_once_and_the_rest_is_queued() -> None:
    async def story() -> None:
        clock = Clock()
        async with running(clock=clock) as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            heard: list[tuple[bytes, int]] = []
            peer.send(RTP)
            await settled(server)
            assert server.counters.early_rtp == 1
            connection.on_rtp = lambda data, arrival_ns: heard.append((data, arrival_ns))
            for data in (RTP, RTCP, DTLS, b"\x50channel data", b"\xff", b"\x80"):
                peer.send(data)
            await settled(server)
            assert heard == [(RTP, clock.ns)]
            assert [await connection.recv() for _ in range(2)] == [RTCP, DTLS]
            assert server.counters.unexpected == 3
            peer.close()

    asyncio.run(story())


def test_a_listener_that_fails_costs_nobody_else_anything() -> None:
    async def story() -> None:
        async with running() as server:
            peer, other = RawPeer(server), RawPeer(server)
            connection, fine = await nominated(server, peer), await nominated(server, other)
            heard: list[bytes] = []

            def fail(data: bytes, arrival_ns: int) -> None:
                raise RuntimeError("a bug of ours")

            connection.on_rtp = fail
            fine.on_rtp = lambda data, arrival_ns: heard.append(data)
            peer.send(RTP)
            other.send(RTP)
            await settled(server)
            assert heard == [RTP] and server.counters.errors == 1
            peer.close()
            other.close()

    asyncio.run(story())


def test_a_full_inbox_drops_the_newest() -> None:
    async def story() -> None:
        async with running() as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            for number in range(MAX_INBOX + 10):
                peer.send(DTLS + number.to_bytes(2, "big"))
            await settled(server)
            assert server.counters.queue_dropped == 10
            got = [await connection.recv() for _ in range(MAX_INBOX)]
            assert got[-1] == DTLS + (MAX_INBOX - 1).to_bytes(2, "big")
            peer.close()

    asyncio.run(story())


def test_a_cancelled_recv_loses_nothing() -> None:
    async def story() -> None:
        async with running() as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.recv(), 0.01)
            peer.send(DTLS)
            assert await asyncio.wait_for(connection.recv(), 5) == DTLS
            peer.close()

    asyncio.run(story())


def test_a_datagram_too_long_is_dropped() -> None:
    async def story() -> None:
        async with running() as server:
            peer = RawPeer(server)
            await nominated(server, peer)
            peer.send(DTLS + bytes(2048))
            await settled(server)
            assert server.counters.oversized == 1
            peer.close()

    asyncio.run(story())


def test_what_the_socket_refuses_is_counted() -> None:
    async def story() -> None:
        async with running() as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            assert not connection.send_now(bytes(70_000)) and server.counters.send_errors == 1
            assert connection.send_now(RTP) and await peer.receive() == RTP
            peer.close()

    asyncio.run(story())
