"""ICE-lite on real sockets: agents of aioice, checks and answers, and the end."""

from __future__ import annotations

import asyncio

import pytest
from aioice import ConnectionClosed, stun

from gateway.webrtc.ice import IceServer, IceSettings
from tests.support.ice_peer import (
    DTLS,
    RTCP,
    RTP,
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


# With a real agent


def test_a_full_agent_connects_and_datagrams_pass_both_ways() -> None:
    async def story() -> None:
        async with running() as server:
            connection = server.new_connection()
            agent = full_agent(connection)
            await connect(agent, connection)
            await agent.send(DTLS)
            assert await connection.recv() == DTLS
            await connection.send(RTCP)
            assert await agent.recv() == RTCP
            assert connection.send_now(RTP) and await agent.recv() == RTP
            assert connection.alive and server.counters.bad_integrity == 0
            await agent.close()

    asyncio.run(story())


def test_two_agents_share_the_port_and_hear_only_their_own() -> None:
    async def story() -> None:
        async with running() as server:
            ends = []
            for _ in range(2):
                connection = server.new_connection()
                agent = full_agent(connection)
                await connect(agent, connection)
                ends.append((agent, connection))
            for number, (agent, _) in enumerate(ends):
                await agent.send(DTLS + bytes([number]))
            for number, (agent, connection) in enumerate(ends):
                assert await connection.recv() == DTLS + bytes([number])
                await agent.close()

    asyncio.run(story())


def test_an_agent_with_the_wrong_password_gets_401_and_fails() -> None:
    async def story() -> None:
        async with running() as server:
            connection = server.new_connection()
            agent = full_agent(connection)
            agent.remote_password = "x" * 24
            await connection.gather_candidates()
            await agent.gather_candidates()
            await agent.add_remote_candidate(connection.local_candidates[0])
            await agent.add_remote_candidate(None)
            agent_fails = asyncio.ensure_future(agent.connect())
            while not server.counters.bad_integrity:
                await asyncio.sleep(0.005)
            assert not connection.alive and server.addresses == 0
            await agent.close()
            with pytest.raises(ConnectionError):
                await agent_fails

    asyncio.run(story())


# Checks and answers


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_answer_names_the_address_of_the_peer(host: str) -> None:
    async def story() -> None:
        async with running(IceSettings(host=host)) as server:
            connection, peer = await reachable(server), RawPeer(server, host)
            answer = await peer.ask(check(connection))
            assert answer.attributes["XOR-MAPPED-ADDRESS"] == peer.address
            assert answer.check_message_integrity(connection.local_password.encode())
            peer.close()

    asyncio.run(story())


def test_a_dual_stack_port_tells_ipv4_peers_their_ipv4_address() -> None:
    async def story() -> None:
        settings = IceSettings(host="::", public_hosts=("127.0.0.1", "::1"))
        async with running(settings) as server:
            for host in settings.public_hosts:
                peer = RawPeer(server, host)
                answer = await peer.ask(check(await reachable(server)))
                assert answer.attributes["XOR-MAPPED-ADDRESS"] == peer.address
                peer.close()

    asyncio.run(story())


def test_candidates_prefer_udp_and_the_first_host() -> None:
    async def story() -> None:
        settings = IceSettings(host="::", public_hosts=("192.0.2.1", "2001:db8::1"), tcp_port=0)
        async with running(settings) as server:
            connection = server.new_connection()
            assert connection.local_candidates == []
            await connection.gather_candidates()
            found = connection.local_candidates
            assert [(c.transport, c.host, c.tcptype) for c in found] == [
                ("udp", "192.0.2.1", None),
                ("udp", "2001:db8::1", None),
                ("tcp", "192.0.2.1", "passive"),
                ("tcp", "2001:db8::1", "passive"),
            ]
            priorities = [c.priority for c in found]
            assert priorities == sorted(priorities, reverse=True) and len({c.foundation for c in found}) == 4
            assert f" {server.udp_port} typ host" in connection.candidate_lines()[0]
            assert connection.candidate_lines()[2].endswith(f"{server.tcp_port} typ host tcptype passive")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": "gateway.example"}, "no IP address"),
        ({"host": "0.0.0.0"}, "set public_hosts"),
        ({"udp_port": 65536}, "not within"),
        ({"tcp_only": True}, "needs a tcp_port"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IceSettings(**given)  # type: ignore[arg-type]


def test_a_port_in_use_is_named() -> None:
    async def story() -> None:
        async with running() as server:
            with pytest.raises(OSError, match=f"UDP 127.0.0.1 port {server.udp_port}"):
                await IceServer(IceSettings(udp_port=server.udp_port)).start()

    asyncio.run(story())


def test_wrong_credentials_get_401_and_change_nothing() -> None:
    async def story() -> None:
        async with running() as server:
            connection, peer = await reachable(server), RawPeer(server)
            for bad in (
                check(connection, password="wrong" * 5),
                check(connection, remote="other"),
                check(connection, username=connection.local_username),
            ):
                answer = await peer.ask(bad)
                assert answer.error_code == 401 and len(bytes(answer)) <= len(bad)
            assert server.counters.bad_integrity == 3 and server.addresses == 0 and not connection.alive
            peer.close()

    asyncio.run(story())


def test_the_remote_half_counts_only_once_it_is_known() -> None:
    async def story() -> None:
        async with running() as server:
            connection, peer = await reachable(server, None), RawPeer(server)
            assert (await peer.ask(check(connection, remote="early"))).error_code is None
            connection.remote_username = "peer"
            assert (await peer.ask(check(connection, remote="early"))).error_code == 401
            assert (await peer.ask(check(connection))).error_code is None
            peer.close()

    asyncio.run(story())


def test_a_request_without_integrity_gets_no_more_than_it_sent() -> None:
    async def story() -> None:
        async with running() as server:
            peer = RawPeer(server)
            connection = server.new_connection(local_username="abcd")  # the shortest that may be
            await connection.gather_candidates()
            message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
            message.attributes["USERNAME"] = "abcd"
            message.add_fingerprint()
            answer = await peer.ask(bytes(message))
            assert answer.error_code == 400 and len(bytes(answer)) <= len(bytes(message))
            message.add_message_integrity(b"wrong" * 5)
            answer = await peer.ask(bytes(message))
            assert answer.error_code == 401 and len(bytes(answer)) <= len(bytes(message))
            message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
            message.add_fingerprint()
            peer.send(bytes(message))
            await settled(server)
            assert peer.heard_nothing() and server.counters.unknown_ufrag == 1
            peer.close()

    asyncio.run(story())


def test_a_peer_that_is_controlled_too_is_told_to_change() -> None:
    async def story() -> None:
        async with running() as server:
            connection, peer = await reachable(server), RawPeer(server)
            answer = await peer.ask(check(connection, attributes={"ICE-CONTROLLED": 1}))
            assert answer.error_code == 487 and server.counters.role_conflicts == 1
            assert answer.check_message_integrity(connection.local_password.encode())
            assert not connection.alive
            peer.close()

    asyncio.run(story())


def test_an_unknown_attribute_gets_420(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        stun.ATTRIBUTES_BY_NAME, "NEW-THING", (0x7ABC, "NEW-THING", stun.pack_none, stun.unpack_none)
    )

    async def story() -> None:
        async with running() as server:
            connection, peer = await reachable(server), RawPeer(server)
            peer.send(check(connection, attributes={"NEW-THING": None}))
            data = await peer.receive()
            assert stun.parse_message(data).error_code == 420
            assert bytes.fromhex("000a00027abc0000") in data and not connection.alive
            peer.close()

    asyncio.run(story())


# The end


def test_closing_wakes_everyone_and_forgets_everything() -> None:
    async def story() -> None:
        async with running() as server:
            peer = RawPeer(server)
            connection, unborn = await nominated(server, peer), await reachable(server)
            event = asyncio.ensure_future(connection.get_event())
            fetching = asyncio.ensure_future(connection.recv())
            connecting = asyncio.ensure_future(unborn.connect())
            await asyncio.sleep(0)
            await connection.close()
            await connection.close()
            await unborn.close()
            assert isinstance(await event, ConnectionClosed)
            assert isinstance(await connection.get_event(), ConnectionClosed)
            for waiting in (fetching, connecting):
                with pytest.raises(ConnectionError):
                    await waiting
            with pytest.raises(ConnectionError):
                await connection.send(DTLS)
            assert server.connections == 0 and server.addresses == 0
            peer.send(check(connection))
            peer.send(DTLS)
            await settled(server)
            assert server.counters.unknown_ufrag == 1 and server.counters.unmatched == 1
            peer.close()

    asyncio.run(story())


def test_connections_are_bounded_and_bundled_ones_may_share_their_credentials() -> None:
    async def story() -> None:
        async with running(IceSettings(max_connections=2)) as server:
            first = await reachable(server)
            sibling = server.new_connection(
                local_username=first.local_username, local_password=first.local_password
            )
            await sibling.close()
            peer = RawPeer(server)
            assert (await peer.ask(check(first))).error_code is None
            unbundled = server.new_connection(local_username=first.local_username)
            with pytest.raises(ConnectionError, match="bundled"):
                await unbundled.gather_candidates()
            await reachable(server)
            with pytest.raises(ConnectionError, match="all 2 connections"):
                await reachable(server)
            assert server.counters.connections_refused == 2
            peer.close()

    asyncio.run(story())
