"""What the store promises: nobody waits, nothing is lost uncounted, order and fencing hold whatever Redis does."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.state import keys
from gateway.state.address import parse
from gateway.state.buffer import Buffer
from gateway.state.client import Client, Login
from gateway.state.delivery import Times
from gateway.state.records import Cdr, Heard, Leg, Line, Session, Task, decode
from gateway.state.store import Store
from tests.gateway.state.server import (
    CALL,
    NAMESPACE,
    StateServer,
    entries,
    node,
    play,
    until,
    value,
)
from tests.gateway.state.server import Line as Way

pytestmark = pytest.mark.redis

CALLS = [f"b-{number:016x}" for number in range(5)]
RULES = (
    "+eval +info +get +set +del +expire +hset +hlen +hexists +hgetall +xadd +xrevrange +time +client|setname"
)
"""As in docs/operations.md."""
SECRET = "my-card-is-4929"


def session(call: str = CALL, persona: str = "p", ended_ms: int = 0) -> Session:
    return Session(call, "webrtc", "n1", "web-0", 1_000, persona, ended_ms=ended_ms)


def cdr(call: str = CALL, legs: int = 1) -> Cdr:
    return Cdr(call, "webrtc", "n1", 1_000, legs=legs)


def said(turn: int, text: str = "hello") -> Line:
    return Line(turn, "caller", text)


def names(logs: Any) -> list[str]:
    return [entry["event"] for entry in logs]


def test_a_call_from_its_begin_to_its_end(server: StateServer) -> None:
    task = Task("k1", "asked", 12, 99_000, request="what is the time")

    async def story() -> None:
        async with node(server.url) as here:
            store = here.store
            store.begin(CALL)
            assert store.put_session(CALL, session()) and store.put_leg(
                CALL, Leg(0, "webrtc", "web-0", 1_000)
            )
            assert store.put_cdr(CALL, cdr()) and store.put_task(CALL, task)
            assert store.put_heard(CALL, Heard(12, 32_000, 16_000))
            for turn in range(3):
                assert store.say(CALL, said(turn)) and store.say(CALL, Line(turn, "model", "ja", 3_200))
            await here.delivered()
            assert store.owns(CALL) and store.gauges()["state_leases"] == 1
            store.put_session(CALL, session(ended_ms=5_000))
            store.end(CALL)
            assert not store.say(CALL, said(9)) and here.counters.refused_unknown == 1  # it is over
            await here.delivered()
            assert not store.owns(CALL) and here.counters.writes == 12
            kept = await store.read(CALL)
        assert kept is not None and kept.lease is None and kept.session is not None
        assert decode(Session, kept.session).ended_ms == 5_000
        assert [decode(Task, found) for found in kept.tasks.values()] == [task]
        assert [(line.turn, line.speaker) for line in map(lambda x: decode(Line, x), kept.lines)] == [
            (turn, who) for turn in range(3) for who in ("caller", "model")
        ]
        assert decode(Heard, kept.heard or b"").played_samples == 16_000
        with server.look() as look:
            ends = {name: look.ttl(name) for name in look.scan_iter("*")}
        assert len(ends) == 7 and all(0 < left <= 600 for left in ends.values())  # keep_s; no lease

    play(story())


def test_an_idle_call_keeps_its_lease(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url, times=Times(lease_ms=400, renew_ms=40)) as here:
            here.store.begin(CALL)
            await here.delivered()
            with server.look() as look:
                first = value(look, "lease")
                beyond_us = look.time()[0] * 1_000_000 + look.time()[1] + 1_000_000  # two leases and a half
                await until(lambda: look.time()[0] * 1_000_000 + look.time()[1] > beyond_us)
                assert value(look, "lease") == first and here.store.owns(CALL)
            here.store.release(CALL)
            await here.delivered()
            with server.look() as look:
                assert value(look, "lease") is None

    play(story())


def test_redis_killed_and_restarted_in_the_middle_loses_nothing(server: StateServer) -> None:
    most = 400

    async def story() -> None:
        async with node(server.url) as here:
            for call in CALLS:
                here.store.begin(call)
                here.store.put_session(call, session(call))
            for turn in range(most):
                for call in CALLS:
                    assert here.store.say(call, said(turn))
                if turn == most // 3:
                    await until(lambda: here.counters.writes > 100, "some of it is there")
                    server.kill()
                if turn == 2 * most // 3:
                    await until(lambda: not here.store.gauges()["state_connected"], "it was missed")
                    assert here.store.gauges()["state_buffered"] > 0
                    server.start()
                await asyncio.sleep(0)
            for call in CALLS:
                here.store.put_cdr(call, cdr(call))
                here.store.end(call)
            await here.delivered()
            assert here.counters.dropped == 0 and here.counters.fencing_refusals == 0
            assert (here.counters.disconnects, here.counters.reconnects) == (1, 1)
        with server.look() as look:
            for call in CALLS:
                assert entries(look, call) == [(turn, 1) for turn in range(most)]
                assert look.hlen(f"{NAMESPACE}:{{{call}}}:cdr") == 1 and value(look, "lease", call) is None

    with capture_logs() as logs:
        play(story())
    assert names(logs) == [
        "state is kept",
        "Redis is away: calls go on, their state waits here",
        "Redis is back",
    ]
    assert logs[-1]["writes_lost"] == 0


def test_a_server_that_hangs_holds_nobody_up_and_gets_nothing_twice(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            here.store.begin(CALL)
            await here.delivered()
            server.pause()
            for turn in range(200):
                here.store.say(CALL, said(turn))
                await asyncio.sleep(0)
            await until(lambda: here.counters.disconnects == 1)
            server.resume()
            await here.delivered()
        with server.look() as look:
            assert entries(look) == [(turn, 1) for turn in range(200)]

    play(story())


def test_a_server_that_comes_back_empty_is_told_anew(program: str, folder: Path) -> None:
    server = StateServer(program, folder, appends=False).start()

    async def story() -> None:
        async with node(server.url) as here:
            for call in CALLS:
                here.store.begin(call)
                here.store.put_session(call, session(call))
                here.store.put_leg(call, Leg(0, "webrtc", "web-0", 1_000))
                here.store.put_cdr(call, cdr(call))
                here.store.say(call, said(1))
            here.store.put_cdr(CALLS[0], cdr(CALLS[0], legs=2))
            await here.delivered()
            server.kill()
            server.start()
            here.store.say(CALLS[0], said(2))  # of the others nothing is written: their renewal finds it out
            await until(lambda: here.counters.forgotten == len(CALLS))
            await until(lambda: all(here.store.owns(call) for call in CALLS))
            with server.look() as look:
                await until(lambda: all(value(look, "session", call) for call in CALLS))
                for call in CALLS:
                    assert look.hlen(f"{NAMESPACE}:{{{call}}}:legs") == 1
                kept: Any = look.hget(f"{NAMESPACE}:{{{CALLS[0]}}}:cdr", "1000")
                assert decode(Cdr, kept).legs == 2 and entries(look, CALLS[0]) == [(2, 1)]
                server.check_that_all_ends()
            assert here.counters.leases_lost == 0

    try:
        play(story())
    finally:
        server.stop()


def test_more_than_fits_while_redis_is_away_is_counted_and_said_once(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url, buffer=Buffer(most_writes=50)) as here:
            here.store.begin(CALL)
            await here.delivered()
            server.kill()
            here.store.put_session(CALL, session())
            await until(lambda: here.counters.disconnects == 1)
            had_room = [here.store.say(CALL, said(turn)) for turn in range(200)]
            assert all(had_room)  # the oldest go
            here.store.put_cdr(CALL, cdr())
            here.store.end(CALL)
            assert here.store.gauges()["state_buffered"] == 50 and here.counters.dropped == 153
            server.start()
            await here.delivered()
            assert here.counters.writes == 49  # and the end's own mark
        with server.look() as look:
            assert entries(look) == [(turn, 1) for turn in range(153, 200)]
            assert value(look, "session") is not None and look.hlen(f"{NAMESPACE}:{{{CALL}}}:cdr") == 1

    with capture_logs() as logs:
        play(story())
    assert names(logs).count("Redis is away: calls go on, their state waits here") == 1
    assert [entry["writes_lost"] for entry in logs if entry["event"] == "Redis is back"] == [153]


def test_a_call_that_was_taken_over_meanwhile_is_left_to_its_new_owner(
    server: StateServer, folder: Path
) -> None:
    way = Way(folder / "w", server.socket)

    async def story() -> None:
        await way.join()
        async with (
            node(way.url, "n1", Times(lease_ms=200, renew_ms=50)) as first,
            node(server.url, "n2") as second,
        ):
            first.store.begin(CALL)
            first.store.put_session(CALL, session(persona="first"))
            first.store.say(CALL, said(1))
            await first.delivered()
            await way.cut()
            await until(lambda: first.counters.disconnects == 1)
            for turn in range(2, 12):
                assert first.store.say(CALL, said(turn, "stale"))
            with server.look() as look:
                await until(lambda: value(look, "lease") is None, "the lease expired by the server's clock")
                second.store.adopt(CALL)
                second.store.put_session(CALL, session(persona="second"))
                await second.delivered()
                second.store.release(CALL)  # free, and still not the first one's
                await second.delivered()
                await way.join()
                await first.delivered()
                assert first.counters.fencing_refusals == 10 and first.counters.leases_lost == 1
                assert not first.store.owns(CALL) and not first.store.say(CALL, said(12))
                assert first.counters.fencing_refusals == 11
                assert entries(look) == [(1, 1)]
                assert decode(Session, value(look, "session")).persona == "second"
                first.store.end(CALL)  # nothing of the other's is ended
                await first.delivered()
                assert not first.store.gauges()["state_buffered"]
                assert value(look, "fence") is not None
        await way.cut()

    with capture_logs() as logs:
        play(story())
    assert names(logs).count("another gateway has this call: nothing more is written of it") == 1


def test_two_gateways_that_begin_the_same_call(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url, "n1") as first, node(server.url, "n2") as second:
            for here in (first, second):
                here.store.begin(CALL)
                here.store.put_session(CALL, session())
            await first.delivered()
            await second.delivered()
            owners = [here for here in (first, second) if here.store.owns(CALL)]
            refused = [here for here in (first, second) if not here.store.owns(CALL)]
            assert len(owners) == 1 and owners[0].counters.writes == 1
            assert refused[0].counters.fencing_refusals == 1 and refused[0].counters.leases_lost == 1

    play(story())


def test_what_a_call_may_not_have_is_refused_and_counted(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            store = here.store
            store.begin(CALL)
            assert not store.put_session(CALL, session(persona="x" * keys.MOST_RECORD_BYTES))
            assert not store.say(CALL, said(1, "x" * keys.MOST_LINE_BYTES))
            assert not store.put_task(CALL, Task("k" * 65, "asked", 0, 0))
            assert here.counters.refused_size == 3
            assert not store.put_session("b-1}{", session()) and not store.put_session(CALLS[1], session())
            store.begin("b-1}{")
            assert here.counters.refused_unknown == 3
            for number in range(keys.MOST_TASKS + 2):
                assert store.put_task(CALL, Task(f"k{number}", "asked", 0, 0))
            await here.delivered()
            assert here.counters.refused_full == 2 and here.counters.writes == keys.MOST_TASKS

    play(story())


def test_a_name_used_again_at_once_is_two_calls(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            for began_ms in (1_000, 2_000, 3_000):
                here.store.begin(CALL)
                here.store.say(CALL, said(began_ms))
                here.store.put_cdr(CALL, msgspec.structs.replace(cdr(), began_ms=began_ms))
                here.store.end(CALL)
            await here.delivered()
            assert here.counters.fencing_refusals == 0 and here.counters.writes == 6
        with server.look() as look:
            assert look.hlen(f"{NAMESPACE}:{{{CALL}}}:cdr") == 3 and entries(look) == [(3_000, 1)]

    play(story())


def test_nothing_of_a_caller_is_in_logs_or_counters(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url, buffer=Buffer(most_writes=20)) as here:
            with server.look() as look:
                look.set(f"{NAMESPACE}:{{{CALLS[0]}}}:transcript", "in the way", ex=60)
            for call in CALLS[:2]:
                here.store.begin(call)
                await here.delivered()
                with server.look() as look:
                    look.set(f"{NAMESPACE}:{{{call}}}:tasks", "in the way", ex=60)
                here.store.put_session(call, session(call, persona=SECRET))
                here.store.put_task(call, Task(SECRET, "asked", 0, 0, request=SECRET))
            await here.delivered()
            assert here.counters.rejected > 0
            server.kill()
            for turn in range(50):
                here.store.say(CALLS[1], said(turn, SECRET))
            await until(lambda: here.counters.disconnects == 1)
            server.start()
            await here.delivered()
            with server.look() as look:  # somebody else's by now
                look.set(f"{NAMESPACE}:{{{CALLS[1]}}}:lease", "n9 1", ex=60)
            here.store.say(CALLS[1], said(99, SECRET))
            await here.delivered()
            assert here.counters.leases_lost == 1
            assert SECRET not in repr(here.counters) and SECRET not in repr(here.store.gauges())

    with capture_logs() as logs:
        play(story())
    assert len(logs) >= 5 and SECRET not in repr(logs)


def test_what_is_left_at_the_end_is_sent_or_said(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            await until(lambda: here.store.gauges()["state_connected"] == 1)
            here.store.begin(CALL)
            here.store.put_cdr(CALL, cdr())
            here.store.end(CALL)
        with server.look() as look:
            assert look.hlen(f"{NAMESPACE}:{{{CALL}}}:cdr") == 1
        async with node(server.url, patience_s=0.5) as here:
            await until(lambda: here.store.gauges()["state_connected"] == 1)
            server.kill()
            here.store.begin(CALLS[1])
            here.store.put_cdr(CALLS[1], cdr(CALLS[1]))

    with capture_logs() as logs:
        play(story())
    assert [entry["writes"] for entry in logs if entry["event"] == "state lost at the end"] == [2]


def test_a_wrong_password_is_said_and_nothing_gets_through(server: StateServer) -> None:
    with server.look() as look:
        look.execute_command("ACL", "SETUSER", "gate", "on", ">sesame", f"~{NAMESPACE}:*", *RULES.split())
        look.execute_command("ACL", "SETUSER", "root", "on", ">root", "~*", "+@all")
        look.execute_command("ACL", "SETUSER", "default", "resetpass", "off", "nopass")

    async def story() -> None:
        async with node(server.url, login=Login("gate", "wrong"), patience_s=0.1) as here:
            here.store.begin(CALL)
            await until(lambda: here.counters.disconnects == 1)
        async with node(server.url, login=Login("gate", "sesame")) as here:
            here.store.begin(CALL)
            here.store.put_session(CALL, session())
            here.store.put_leg(CALL, Leg(0, "webrtc", "web-0", 1_000))
            here.store.say(CALL, said(1))
            await here.delivered()
            assert here.counters.writes == 3 and here.counters.rejected == 0
            kept = await here.store.read(CALL)
            assert kept is not None and len(kept.lines) == 1
            here.store.end(CALL)

    try:
        with capture_logs() as logs:
            play(story())
    finally:
        with server.look(username="root", password="root") as look:
            look.execute_command("ACL", "SETUSER", "default", "on", "nopass")
    assert "AuthenticationError" in [entry.get("reason") for entry in logs] and "sesame" not in repr(logs)


class Deaf(Client):
    """Python 3.11's `asyncio.wait_for`, which redis-py uses, loses a cancellation that comes with an answer."""

    asked = False

    async def ping(self) -> str:
        if not self.asked:
            self.asked = True
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        return await super().ping()


def test_the_end_does_not_hang_on_a_cancellation_that_was_lost(server: StateServer) -> None:
    async def story() -> None:
        client = Deaf(parse(server.url), Login(), NAMESPACE, "n1")
        store = Store(lambda: client, 600)
        running = asyncio.create_task(store.run())
        await until(lambda: client.asked)
        store.begin(CALL)
        store.put_cdr(CALL, cdr())
        store.end(CALL)
        await asyncio.wait_for(store.close(5.0), 15)
        assert running.done() and not running.cancelled()
        with server.look() as look:
            assert look.hlen(f"{NAMESPACE}:{{{CALL}}}:cdr") == 1

    play(story())
