"""Floods, forged addresses, replays and broken datagrams: a live call notices none of them."""

from __future__ import annotations

import asyncio
import random

from gateway.webrtc import ice_stun
from tests.support.ice_peer import (
    DTLS,
    RTP,
    Clock,
    RawPeer,
    check,
    needs_stun_seeds,
    nominated,
    reachable,
    running,
    settled,
    stun_seeds,
)


def test_a_flood_of_unknown_ufrags_is_not_answered_and_leaves_nothing() -> None:
    async def story() -> None:
        async with running() as server:
            peer, stranger = RawPeer(server), RawPeer(server)
            connection = await nominated(server, peer)
            for number in range(2_000):
                stranger.send(check(connection, username=f"no{number}:peer"))
                if number % 50 == 49:
                    await settled(server)
            assert server.counters.unknown_ufrag == 2_000 and stranger.heard_nothing()
            assert server.addresses == 1 and server.connections == 1
            peer.send(DTLS)
            assert await connection.recv() == DTLS
            peer.close()
            stranger.close()

    asyncio.run(story())


def test_a_forged_source_address_takes_no_call_away() -> None:
    """From the caller's own address: forged checks without credentials, and with those of another call."""

    async def story() -> None:
        clock = Clock()
        async with running(clock=clock) as server:
            victim, attacker = RawPeer(server), RawPeer(server)
            called, own = await nominated(server, victim), await nominated(server, attacker)
            await victim.ask(check(called, password="guess" * 5))
            victim.send(check(own))
            await settled(server)
            assert victim.heard_nothing() and server.counters.address_conflicts == 1
            victim.send(DTLS)
            assert await called.recv() == DTLS
            assert own.send_now(RTP) and await attacker.receive() == RTP
            clock.pass_s(8.5)  # the call has left this address; now it may be someone else's
            assert (await victim.ask(check(own))).error_code is None
            assert own.send_now(RTP) and await victim.receive() == RTP
            assert not called.send_now(RTP)
            victim.close()
            attacker.close()

    asyncio.run(story())


def test_a_check_seen_on_the_way_and_sent_again_from_elsewhere_moves_nothing() -> None:
    async def story() -> None:
        async with running() as server:
            peer, attacker = RawPeer(server), RawPeer(server)
            connection = await reachable(server)
            overheard = check(connection)
            await peer.ask(overheard)
            attacker.send(overheard)
            attacker.send(DTLS)
            await settled(server)
            assert attacker.heard_nothing() and server.counters.replays == 1 and server.addresses == 1
            assert connection.send_now(RTP) and await peer.receive() == RTP
            peer.close()
            attacker.close()

    asyncio.run(story())


@needs_stun_seeds
def test_ten_thousand_broken_datagrams_touch_no_live_call() -> None:
    async def story() -> None:
        async with running() as server:
            peer, stranger = RawPeer(server), RawPeer(server)
            connection = await nominated(server, peer)
            heard: list[bytes] = []
            connection.on_rtp = lambda data, arrival_ns: heard.append(data)
            seeds = stun_seeds()
            for number in range(10_000):
                sender = peer if number % 2 else stranger  # also from an address that is known
                sender.send(broken(random.choice([*seeds, check(connection)])))
                if number % 100 == 99:
                    await settled(server)
            counters = server.counters
            assert counters.errors == 0 and counters.bad_stun > 1_000 and counters.bad_integrity > 100
            assert server.addresses == 1 and server.connections == 1
            while not peer.heard_nothing():
                pass
            heard.clear()
            peer.send(RTP)
            await settled(server)
            assert heard == [RTP] and connection.alive
            assert connection.send_now(RTP) and await peer.receive() == RTP
            peer.close()
            stranger.close()

    def broken(data: bytes) -> bytes:
        """Octets changed in what a signature protects, sometimes cut, often with the right fingerprint again."""
        changed = bytearray(data)
        signs_again = random.random() < 0.5
        for at in random.sample(range(8 * signs_again, len(data) - 8), random.randrange(1, 5)):
            changed[at] ^= random.randrange(1, 256)
        cut = bytes(changed[: random.randrange(len(changed))] if random.random() < 0.1 else changed)
        if len(cut) < 28 or not signs_again:
            return cut
        return ice_stun._message(ice_stun.BINDING_REQUEST, cut[8:20], cut[20:-8], b"")

    random.seed(8445)
    asyncio.run(story())
