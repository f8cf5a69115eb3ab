"""Gateways that share a real server: who is alive, and how many calls a limit has of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from gateway.cluster import scripts
from gateway.cluster.node import Node
from gateway.cluster.registry import Registry, Times
from gateway.state.address import parse
from gateway.state.client import Client, Login
from tests.gateway.state.server import NAMESPACE, StateServer, play, until

pytestmark = pytest.mark.redis

QUICK = Times(announce_s=0.1, alive_ms=700, take_s=2.0)
LIMIT = {"tenant:acme": 10}


@dataclass
class Member:
    """One gateway's registry, which can die."""

    registry: Registry
    task: asyncio.Task[None]

    def die(self) -> None:
        self.registry._leaving = True  # redis-py may swallow a cancellation
        self.task.cancel()


def client(server: StateServer, name: str) -> Client:
    return Client(parse(server.url), Login(), NAMESPACE, name, answer_s=0.5)


@contextlib.asynccontextmanager
async def member(server: StateServer, name: str, times: Times = QUICK) -> AsyncIterator[Member]:
    async def facts() -> Node:
        return Node(name, "here", f"http://127.0.0.1:{len(name)}", ready=True, web_free=3)

    registry = Registry(lambda: client(server, name), NAMESPACE, name, facts, times)
    running = Member(registry, asyncio.create_task(registry.run()))
    try:
        await until(lambda: registry.is_connected or running.task.done())
        yield running
    finally:
        if running.task.done() and not running.task.cancelled():
            running.task.result()
        running.die()
        await asyncio.wait([running.task])
        await registry.leave()


async def names(registry: Registry, *wanted: str) -> None:
    await until(lambda: sorted(registry.nodes) == sorted(wanted), f"{sorted(registry.nodes)} are {wanted}")


def test_gateways_find_each_other_and_miss_who_leaves(server: StateServer) -> None:
    async def story() -> None:
        async with member(server, "left") as left:
            async with member(server, "right"):
                await names(left.registry, "left", "right")
                (other,) = left.registry.others()
                assert other.node == "right" and other.web_free == 3 and other.ready
            await names(left.registry, "left")  # said goodbye: at once
            assert not left.registry.others()

    play(story())


def test_of_many_callers_at_two_gateways_as_many_get_in_as_may(server: StateServer) -> None:
    async def story() -> None:
        async with member(server, "left") as left, member(server, "right") as right:
            asked = [
                (left if n % 2 else right).registry.take(f"c{n}", LIMIT | {"trunk:t": 100}) for n in range(60)
            ]
            answers = await asyncio.gather(*asked)
            assert answers.count("") == 10 and answers.count("tenant:acme") == 50
            assert len(left.registry.permits) + len(right.registry.permits) == 10
            assert left.registry.counters.permits_unchecked == right.registry.counters.permits_unchecked == 0
            gone = next(f"c{n}" for n in range(60) if f"c{n}" in left.registry.permits or n % 2 == 0)
            holder = left if gone in left.registry.permits else right
            holder.registry.give(gone)  # free for the other one, too
            other = right if holder is left else left
            await until(lambda: holder.registry.counters.announcements > 2)
            async with asyncio.timeout(5):
                while await other.registry.take("next", LIMIT):
                    await asyncio.sleep(0.02)

    play(story())


def test_what_a_dead_gateway_held_is_free_when_it_is_dead_and_not_before(server: StateServer) -> None:
    async def story() -> None:
        async with member(server, "left") as left, member(server, "right") as right:
            await names(left.registry, "left", "right")
            for number in range(10):
                assert not await right.registry.take(f"c{number}", LIMIT)
            assert await left.registry.take("mine", LIMIT) == "tenant:acme"
            right.die()
            assert await left.registry.take("mine", LIMIT) == "tenant:acme"
            await names(left.registry, "left")
            assert not await left.registry.take("mine", LIMIT)
            for number in range(9):
                assert not await left.registry.take(f"l{number}", LIMIT)
            assert await left.registry.take("l9", LIMIT) == "tenant:acme"

    play(story())


def test_a_process_that_comes_back_goes_on_holding_what_its_former_self_held(server: StateServer) -> None:
    async def story() -> None:
        async with member(server, "left") as left, member(server, "right") as before:
            for number in range(8):
                assert not await before.registry.take(f"c{number}", LIMIT)
            before.die()
            async with member(server, "right") as after:
                assert after.registry.permits.held() == {"tenant:acme": 8}
                assert not await left.registry.take("l0", LIMIT)
                assert not await after.registry.take("r0", LIMIT)
                assert await left.registry.take("l1", LIMIT) == "tenant:acme"
                after.registry.hold("c0", LIMIT, adopted=True)
                after.registry.permits.settle()  # seven had ended meanwhile
                after.registry.tell()
                async with asyncio.timeout(5):
                    while await left.registry.take("l1", LIMIT):
                        await asyncio.sleep(0.02)

    play(story())


def test_while_the_server_is_away_each_counts_for_itself_and_tells_it_later(server: StateServer) -> None:
    async def story() -> None:
        async with member(server, "left") as left, member(server, "right") as right:
            assert not await left.registry.take("l0", LIMIT)
            server.kill()
            await until(lambda: not left.registry.is_connected and not right.registry.is_connected)
            for number in range(1, 10):
                assert not await left.registry.take(f"l{number}", LIMIT)
            assert await left.registry.take("l10", LIMIT) == "tenant:acme"  # by its own count
            assert not await right.registry.take("r0", LIMIT)
            assert left.registry.counters.permits_unchecked == 9
            server.start()
            await names(left.registry, "left", "right")
            await names(right.registry, "left", "right")
            left.registry.give("l0")
            async with asyncio.timeout(5):  # ten are left's, one is right's: the lot is full
                await until(lambda: left.registry.counters.announcements > 3)
            assert await right.registry.take("r1", LIMIT) == "tenant:acme"

    play(story())


def test_a_server_that_hangs_keeps_no_caller_waiting(server: StateServer) -> None:
    async def story() -> None:
        async with member(server, "left", Times(announce_s=0.1, alive_ms=700, take_s=0.1)) as left:
            server.pause()
            try:
                async with asyncio.timeout(2.0):
                    assert not await left.registry.take("c0", LIMIT)
            finally:
                server.resume()
            assert left.registry.counters.permits_unchecked == 1 and "c0" in left.registry.permits
            await names(left.registry, "left")

    play(story())


def test_of_two_with_one_name_the_newer_one_goes_on(server: StateServer) -> None:
    async def story() -> None:
        with capture_logs() as logs:
            async with member(server, "same") as first, member(server, "same") as second:
                await until(lambda: first.task.done())
                assert first.registry.counters.names_lost == 1 and second.registry.is_connected
        assert sum("this one's name" in line["event"] for line in logs) == 1

    play(story())


def test_a_server_that_comes_back_empty_is_told_everything_again(server: StateServer) -> None:
    async def story() -> None:
        async with member(server, "left") as left, member(server, "right") as right:
            for number in range(10):
                assert not await left.registry.take(f"c{number}", LIMIT)
            with server.look() as look:
                look.flushall()
            await until(lambda: left.registry.counters.joined == 2 and right.registry.counters.joined == 2)
            await names(right.registry, "left", "right")
            assert await right.registry.take("r0", LIMIT) == "tenant:acme"

    play(story())


def test_a_message_that_comes_late_changes_nothing(server: StateServer) -> None:
    async def story() -> None:
        one = client(server, "n")
        keys = scripts.keys(NAMESPACE)
        joined = await one.script(scripts.ANNOUNCE, keys, ["n", "", 1, 60_000, 600, b"{}", b'{"t":1}'])
        generation = joined[1]
        asked = [b'{"t":3}', b'{"t":3,"u":1}', b'{"u":1}']
        taken = await one.script(scripts.TAKE, keys, ["n", generation, 5, b'{"t":1}', *asked])
        assert taken == [b"ok", generation, b"", b"", b"u"]
        late = await one.script(scripts.TAKE, keys, ["n", generation, 4, b'{"t":1}', b'{"t":9}'])
        assert late == [b"late"]
        assert await one.script(scripts.LEAVE, keys, ["n", "12", 6]) == [b"stale"]
        with server.look() as look:
            assert json.loads(str(look.hget(keys[2], "n"), "ascii")) == {"t": 3, "u": 1}
        await one.close()

    play(story())
