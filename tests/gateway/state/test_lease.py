"""One owner a call: who gets the lease, who is stale, and what a server may forget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.state.address import parse
from gateway.state.client import Client, Login
from gateway.state.lease import Batch, Outcome, Write
from tests.gateway.state.server import CALL, NAMESPACE, StateServer, entries, play, until, value

pytestmark = pytest.mark.redis

LONG_MS, SHORT_MS, LIVE_S = 60_000, 40, 600


@contextlib.asynccontextmanager
async def clients(server: StateServer, *names: str) -> AsyncIterator[list[Client]]:
    made = [Client(parse(server.url), Login(), NAMESPACE, name) for name in names]
    try:
        yield made
    finally:
        for client in made:
            await client.close()


async def ask(client: Client, batch: Batch, lease_ms: int = LONG_MS) -> Outcome:
    (outcome,) = await client.send([batch], lease_ms, LIVE_S)
    assert isinstance(outcome, Outcome), outcome
    return outcome


def session(text: str) -> tuple[Write, ...]:
    return (Write("set", "session", text.encode()),)


def test_of_many_gateways_that_want_a_call_one_has_it(server: StateServer) -> None:
    names = ["n1", "n2", "n3", "n4"]

    async def story() -> None:
        async with clients(server, *names) as made:
            for number in range(40):
                call = f"b-{number:016x}"
                outcomes = await asyncio.gather(
                    *(ask(c, Batch(call, "", session(n))) for n, c in zip(names, made, strict=True))
                )
                winners = [n for n, o in zip(names, outcomes, strict=True) if o.verdict == "held"]
                assert [o.verdict for o in outcomes].count("taken") == 3 and len(winners) == 1
                with server.look() as look:
                    assert value(look, "session", call) == winners[0].encode()
                    assert value(look, "lease", call).split()[0] == winners[0].encode()

    play(story())


def test_a_token_is_higher_than_all_before_it_even_for_an_empty_server(server: StateServer) -> None:
    async def story() -> None:
        tokens: list[int] = []
        async with clients(server, "n1", "n2") as made:
            for number in range(20):
                client = made[number % 2]
                token = (await ask(client, Batch(CALL, ""))).token
                tokens.append(int(token))
                assert (await ask(client, Batch(CALL, token, leave_s=60))).verdict == "held"
                if number % 5 == 4:
                    with server.look() as look:
                        look.flushall()
        assert tokens == sorted(set(tokens)) and len(tokens) == 20

    play(story())


def test_a_stale_owner_is_refused_once_another_has_come(server: StateServer) -> None:
    async def story() -> None:
        async with clients(server, "n1", "n2") as (first, second):
            old = await ask(first, Batch(CALL, "", session("first")), SHORT_MS)
            with server.look() as look:
                await until(lambda: value(look, "lease") is None, "the server let the lease expire")
                new = await ask(second, Batch(CALL, "", session("second")))
                assert int(new.token) > int(old.token)
                assert (await ask(first, Batch(CALL, old.token, session("late")))).verdict == "stale"
                assert (await ask(first, Batch(CALL, old.token, mark="again"))).verdict == "stale"
                assert (await ask(first, Batch(CALL, ""))).verdict == "taken"
                await ask(
                    second, Batch(CALL, new.token, leave_s=60)
                )  # free again, and yet not the first one's
                assert (await ask(first, Batch(CALL, old.token, session("late")))).verdict == "stale"
                assert value(look, "session") == b"second"

    play(story())


def test_an_expired_lease_that_nobody_took_goes_on_with_its_token(server: StateServer) -> None:
    async def story() -> None:
        async with clients(server, "n1", "n2") as (first, second):
            old = await ask(first, Batch(CALL, ""), SHORT_MS)
            with server.look() as look:
                await until(lambda: value(look, "lease") is None)
                assert await ask(first, Batch(CALL, old.token, session("on"))) == Outcome("held", old.token)
                assert value(look, "session") == b"on"
            assert (await ask(second, Batch(CALL, ""))).verdict == "taken"

    play(story())


def test_a_gateway_that_comes_back_has_its_calls_at_once_and_its_former_self_none(
    server: StateServer,
) -> None:
    async def story() -> None:
        async with clients(server, "n1", "n1") as (before, after):
            old = await ask(before, Batch(CALL, ""))
            new = await ask(after, Batch(CALL, ""))
            assert new.verdict == "held" and int(new.token) > int(old.token)
            assert (await ask(before, Batch(CALL, old.token, session("ghost")))).verdict == "stale"

    play(story())


def test_what_was_forgotten_is_made_anew_only_by_who_says_so(server: StateServer) -> None:
    async def story() -> None:
        async with clients(server, "n1") as (client,):
            token = (await ask(client, Batch(CALL, "", session("a")))).token
            with server.look() as look:
                look.flushall()
                assert (await ask(client, Batch(CALL, token, session("b")))).verdict == "forgotten"
                assert look.dbsize() == 0
                assert await ask(client, Batch(CALL, token, session("b"), "again")) == Outcome("held", token)
                assert value(look, "session") == b"b"

    play(story())


def test_a_batch_whose_answer_was_lost_may_be_sent_again(server: StateServer) -> None:
    lines = [Write("line", "transcript", b"x", f"{turn}-{who}", 100) for turn in (0, 1, 3) for who in (1, 2)]
    field = Write("field", "tasks", b"t", "one", 5)

    async def story() -> None:
        async with clients(server, "n1") as (client,):
            token = (await ask(client, Batch(CALL, ""))).token
            for _ in range(3):
                assert (await ask(client, Batch(CALL, token, [*lines, field]))).full == 0
            with server.look() as look:
                assert entries(look) == [(0, 1), (0, 2), (1, 1), (1, 2), (3, 1), (3, 2)]
                for _ in range(2):
                    outcome = await ask(client, Batch(CALL, token, session("done"), leave_s=60))
                    assert outcome.verdict == "held" and value(look, "lease") is None

    play(story())


def test_counts_are_bounded_the_oldest_lines_and_the_newest_tasks_go(server: StateServer) -> None:
    lines = [Write("line", "transcript", b"x", f"{turn}-1", 10) for turn in range(25)]
    tasks = [Write("field", "tasks", b"t", f"task-{number}", 5) for number in range(8)]

    async def story() -> None:
        async with clients(server, "n1") as (client,):
            outcome = await ask(client, Batch(CALL, "", [*lines, *tasks]))
            assert outcome.full == 3
            with server.look() as look:
                assert entries(look) == [(turn, 1) for turn in range(15, 25)]
                kept: Any = look.hkeys(f"{NAMESPACE}:{{{CALL}}}:tasks")
                assert sorted(kept) == [f"task-{number}".encode() for number in range(5)]
            changed = [Write("field", "tasks", b"new", "task-3", 5)]
            assert (await ask(client, Batch(CALL, outcome.token, changed))).full == 0

    play(story())


def test_a_name_that_is_used_again_starts_empty_but_for_what_was_charged(server: StateServer) -> None:
    async def story() -> None:
        async with clients(server, "n1") as (client,):
            told = [
                *session("old"),
                Write("line", "transcript", b"x", "7-1", 10),
                Write("field", "cdr", b"first", "1", 5),
            ]
            await ask(client, Batch(CALL, "", told, "new", leave_s=60))
            charged = [Write("field", "cdr", b"second", "2", 5)]
            await ask(client, Batch(CALL, "", charged, "new"))
            with server.look() as look:
                assert value(look, "session") is None and entries(look) == []
                assert look.hgetall(f"{NAMESPACE}:{{{CALL}}}:cdr") == {b"1": b"first", b"2": b"second"}

    play(story())
