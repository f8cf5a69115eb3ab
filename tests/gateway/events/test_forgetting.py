"""`microturn forget` and the events that wait on a gateway's disk: who called and what was said goes, ids stay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.events.desk import EventDesk
from gateway.events.forgetting import Forgetting
from gateway.events.open_calls import OpenCalls
from gateway.events.records import Event, decode
from gateway.state.records import Line, Task
from gateway.state.sessions import Sessions
from tests.gateway.events.support import outbox, rest, spool_at
from tests.gateway.state.conftest import folder
from tests.gateway.state.server import NAMESPACE, Node, StateServer, first_program, node, play
from tests.gateway.state.test_forget import ALIVE, ANNA, BERT, NUMBER, OTHER, OVER, forget

__all__ = ["folder"]
pytestmark = pytest.mark.redis

OLD = "b-00000000000000dd"


@pytest.fixture
def server(folder: Path) -> Iterator[StateServer]:
    here = StateServer(first_program(), folder)
    try:
        yield here.start()
        here.check_that_all_ends()
    finally:
        here.stop()


def desk_at(folder: Path) -> EventDesk:
    spool = spool_at(folder / "spool")
    return EventDesk("n1", spool, OpenCalls(folder / "calls"), [outbox(spool, events=("*",))])


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def waiting(desk: EventDesk) -> list[Event]:
    assert desk.spool is not None
    return [decode(payload) for payload in rest(desk.spool)]


def test_events_that_wait_lose_who_called_and_what_was_said(server: StateServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            tasks = set[asyncio.Task[None]]()
            sessions = Sessions(here.store, "n1", lambda work: tasks.add(asyncio.create_task(work)))
            desk = desk_at(tmp_path)
            sessions.watchers.append(desk)
            for call, party in ((OVER, ANNA), (ALIVE, ANNA), (OTHER, BERT), (OLD, ANNA)):
                sessions.begin(call, "webrtc", "web-0", party=party)
                sessions.said(call, Line(1, "caller", f"my card is 4929, {call}"))
                sessions.note_task(call, Task("k", "asked", 1, 99, request=f"card 4929, {call}"))
            for call in (OVER, OLD):
                sessions.end(call)
            await settled(here, sessions, OVER, OLD)
            with server.look() as look:
                look.delete(f"{NAMESPACE}:{{{OLD}}}:session")  # its time was over: its name is not in Redis
            before = [decode(payload) for payload in payloads(desk)]
            forgetting = Forgetting(desk, here.store.script, NAMESPACE)
            await forgetting.look()
            assert on_disk(tmp_path).count(b"4929") == 8
            assert (await asyncio.to_thread(forget, server, NUMBER)).exit_code == 0
            await forgetting.look()
            words = on_disk(tmp_path)
            assert words.count(b"4929") == 2 and ANNA.caller.encode() not in words
            assert BERT.caller.encode() in words

            sessions.said(ALIVE, Line(2, "caller", "4929 again"))  # it lives on
            sessions.end(ALIVE)
            await settled(here, sessions, ALIVE)
            told = waiting(desk)
            assert [event.id for event in told][: len(before)] == [event.id for event in before]
            assert [event.type for event in told[len(before) :]] == ["call.transcript", "call.ended"]
            for event in told:
                assert bool(event.data.get("forgotten")) is (event.call != OTHER)
                if event.call != OTHER and event.type in ("call.transcript", "task.asked"):
                    assert event.data == {"forgotten": True}
            (ended,) = [event for event in told if (event.call, event.type) == (OVER, "call.ended")]
            assert ended.data["ended_ms"] and "caller" not in ended.data
            assert desk.spool is not None
            assert desk.spool.counters.redacted == 3 * 3 + 2 and not desk.spool.counters.damaged
            desk.close()

            # a gateway that starts anew reads all that was asked, and finds nothing left to do
            again = desk_at(tmp_path)
            await Forgetting(again, here.store.script, NAMESPACE).look()
            assert again.spool is not None and again.spool.counters.redacted == 0
            again.close()

    play(story())


def payloads(desk: EventDesk) -> list[bytes]:
    """All that waits; nobody gets it."""
    spool, found = desk.spool, list[bytes]()
    assert spool is not None
    for segment in range(1, spool.end.segment + 1):
        spool.change(segment, lambda payload: found.append(payload))  # type: ignore[func-returns-value]
    return found


async def settled(here: Node, sessions: Sessions, *calls: str) -> None:
    for call in calls:
        while call in sessions:
            await asyncio.sleep(0.01)
    await here.delivered()


def test_while_redis_is_away_it_waits(tmp_path: Path) -> None:
    async def story() -> None:
        asked: list[object] = []

        async def script(text: str, names: object, arguments: object) -> object:
            asked.append(arguments)
            return None if len(asked) == 1 else [b"caller:" + b"c" * 32, b"5", OVER.encode(), b"7"]

        desk = desk_at(tmp_path)
        forgetting = Forgetting(desk, script, NAMESPACE)
        for _ in range(4):
            await forgetting.look()
        assert asked == [[0], [0], [7], [7]]
        desk.close()

    play(story())
