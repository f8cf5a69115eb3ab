"""What changes during a call: restart of ICE, consent, and time limits."""

from __future__ import annotations

import asyncio

import pytest

from gateway.webrtc.ice import IceSettings
from gateway.webrtc.ice_connection import MAX_GENERATIONS
from tests.support.ice_peer import (
    DTLS,
    RTP,
    Clock,
    RawPeer,
    check,
    connect,
    full_agent,
    nominated,
    reachable,
    running,
    settled,
)

pytestmark = pytest.mark.usefixtures("loopback")


# Restart


def test_a_restart_keeps_media_and_retires_the_old_credentials_at_the_first_new_check() -> None:
    async def story() -> None:
        async with running() as server:
            peer, moved = RawPeer(server), RawPeer(server)
            connection = await nominated(server, peer)
            old = connection.local_username, connection.local_password
            new = connection.restart()
            connection.remote_username = "again"
            assert new == (connection.local_username, connection.local_password) and new[0] != old[0]
            by_old = check(connection, username=f"{old[0]}:peer", password=old[1])
            assert (await peer.ask(by_old)).check_message_integrity(old[1].encode())
            assert connection.send_now(RTP) and await peer.receive() == RTP
            answer = await moved.ask(check(connection, remote="again", nominate=False))
            assert answer.check_message_integrity(new[1].encode())
            assert connection.send_now(RTP) and await peer.receive() == RTP  # nothing is nominated anew yet
            peer.send(check(connection, username=f"{old[0]}:peer", password=old[1]))
            await settled(server)
            assert peer.heard_nothing() and server.counters.unknown_ufrag == 1
            peer.send(DTLS)
            assert await connection.recv() == DTLS
            await moved.ask(check(connection, remote="again"))
            assert connection.send_now(RTP) and await moved.receive() == RTP
            peer.close()
            moved.close()

    asyncio.run(story())


def test_restarts_that_nobody_answers_are_bounded() -> None:
    async def story() -> None:
        async with running() as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            old = [connection.restart() for _ in range(MAX_GENERATIONS + 3)]
            connection.remote_username = "peer"
            for username, password in old[:3]:
                peer.send(check(connection, username=f"{username}:peer", password=password))
            for username, password in old[3:]:
                by_old = check(connection, username=f"{username}:peer", password=password)
                assert (await peer.ask(by_old)).error_code is None
            assert server.counters.unknown_ufrag == 3
            await connection.close()
            assert server.connections == 0 and server.addresses == 0
            peer.close()

    asyncio.run(story())


def test_a_full_agent_comes_back_by_restart_while_datagrams_go_on() -> None:
    async def story() -> None:
        async with running() as server:
            connection = server.new_connection()
            agent = full_agent(connection)
            await connect(agent, connection)
            connection.restart()
            await agent.send(DTLS)
            assert await connection.recv() == DTLS
            again = full_agent(connection)
            await connect(again, connection)
            while server.counters.switches == 0:
                await asyncio.sleep(0.005)
            assert connection.send_now(RTP) and await again.recv() == RTP
            await again.send(DTLS)
            assert await connection.recv() == DTLS
            await agent.close()
            await again.close()

    asyncio.run(story())


# Time


def test_consent_ends_once_and_a_later_check_revives_it() -> None:
    async def story() -> None:
        clock = Clock()
        async with running(IceSettings(consent_s=8), clock) as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            said: list[str] = []
            connection.on_dead = lambda: said.append("dead")
            connection.on_alive = lambda: said.append("alive")
            await peer.ask(check(connection))
            clock.pass_s(7.9)
            server.check_time()
            assert connection.alive and said == []
            clock.pass_s(0.2)
            server.check_time()
            server.check_time()
            assert not connection.alive and said == ["dead"]
            assert connection.send_now(RTP) and await peer.receive() == RTP
            clock.pass_s(25)
            server.check_time()
            assert not connection.send_now(RTP)  # 30 s without consent: RFC 7675 5.1
            await peer.ask(check(connection))
            assert connection.alive and said == ["dead", "alive"] and connection.heard_ns == clock.ns
            assert connection.send_now(RTP) and await peer.receive() == RTP
            peer.close()

    asyncio.run(story())


def test_media_is_a_sign_of_life_but_no_consent() -> None:
    """A check that was lost on the way does not take a browser for gone that talks; sending needs checks."""

    async def story() -> None:
        clock = Clock()
        async with running(IceSettings(consent_s=8), clock) as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            said: list[str] = []
            connection.on_dead = lambda: said.append("dead")
            await peer.ask(check(connection))
            clock.pass_s(7.9)
            connection.media_ns = clock.ns
            clock.pass_s(7.9)
            server.check_time()
            assert connection.alive and said == []
            clock.pass_s(15)
            connection.media_ns = clock.ns
            server.check_time()
            assert connection.alive and not connection.send_now(RTP)
            clock.pass_s(8.1)
            server.check_time()
            assert not connection.alive and said == ["dead"]
            peer.close()

    asyncio.run(story())


def test_checks_with_wrong_credentials_are_no_consent() -> None:
    async def story() -> None:
        clock = Clock()
        async with running(clock=clock) as server:
            peer = RawPeer(server)
            connection = await nominated(server, peer)
            clock.pass_s(8.1)
            await peer.ask(check(connection, password="wrong" * 5))
            server.check_time()
            assert not connection.alive and server.counters.consents_lost == 1
            peer.close()

    asyncio.run(story())


def test_the_timer_runs_by_itself() -> None:
    async def story() -> None:
        clock = Clock()
        async with running(clock=clock) as server:
            peer, dead = RawPeer(server), asyncio.Event()
            connection = await nominated(server, peer)
            connection.on_dead = dead.set
            clock.pass_s(9)
            await asyncio.wait_for(dead.wait(), 2)
            peer.close()

    asyncio.run(story())


def test_connecting_has_a_time_limit() -> None:
    async def story() -> None:
        clock = Clock()
        async with running(IceSettings(connect_s=30), clock) as server:
            connection, peer = await reachable(server), RawPeer(server)
            connecting = asyncio.ensure_future(connection.connect())
            await peer.ask(check(connection, nominate=False))  # alive, yet it nominates nothing
            clock.pass_s(29)
            server.check_time()
            await asyncio.sleep(0)
            assert not connecting.done()
            clock.pass_s(2)
            server.check_time()
            with pytest.raises(ConnectionError, match="within 30 s"):
                await connecting
            peer.close()

    asyncio.run(story())


def test_two_lite_agents_are_refused_at_once() -> None:
    async def story() -> None:
        async with running() as server:
            connection = await reachable(server)
            connection.remote_is_lite = True
            with pytest.raises(ConnectionError, match="ICE-lite"):
                await connection.connect()

    asyncio.run(story())
