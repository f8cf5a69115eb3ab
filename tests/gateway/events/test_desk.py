"""What happens in calls becomes events, once each by id, over restarts of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.events import desk as desks
from gateway.events.desk import EventDesk
from gateway.events.open_calls import OpenCalls
from gateway.events.records import Event, decode
from gateway.state.records import Cdr, Line, Session, Task
from gateway.state.sessions import Sessions
from tests.gateway.events.support import outbox, rest, spool_at
from tests.gateway.state.conftest import folder
from tests.gateway.state.server import Node, StateServer, first_program, node, play, until

__all__ = ["folder"]

CALL, OTHER, FORGOTTEN = "b-00000000000000aa", "b-00000000000000bb", "b-00000000000000cc"


def session(call: str = CALL, began_ms: int = 1_000) -> Session:
    return Session(
        call, "webrtc", "n1", "web-0", began_ms, "count", tenant="acme", caller="c" * 32, resume="secret"
    )


def make(folder: Path, **webhook: object) -> EventDesk:
    spool = spool_at(folder / "spool")
    times = iter(range(5_000, 9_000))
    box = outbox(spool, **webhook)  # type: ignore[arg-type]
    return EventDesk("n1", spool, OpenCalls(folder / "calls"), [box], lambda: next(times))


def waiting(desk: EventDesk) -> list[Event]:
    assert desk.spool is not None
    return [decode(payload) for payload in rest(desk.spool)]


def test_a_call_is_told_from_beginning_to_end(tmp_path: Path) -> None:
    desk = make(tmp_path, events=("*",))
    desk.began(session())
    desk.said(session(), Line(3, "caller", "hello"))
    desk.task(session(), Task("k", "asked", 3, 9_999, "caller: 3 plus 4"))
    desk.task(session(), Task("k", "running", 3, 9_999, "caller: 3 plus 4"))
    desk.task(session(), Task("k", "done", 3, 9_999, "caller: 3 plus 4", "7"))
    cdr = Cdr(CALL, "webrtc", "n1", 1_000, "count", "acme", ended_ms=4_000)
    desk.over(session(), cdr)
    told = waiting(desk)
    kinds = ["call.started", "call.transcript", "task.asked", "task.done", "call.ended"]
    assert [one.type for one in told] == kinds and len({one.id for one in told}) == 5
    assert all(one.call == CALL and one.tenant == "acme" and one.node == "n1" for one in told)
    assert (
        told[0].data["caller"] == "c" * 32 and "resume" not in told[0].data and "worker" not in told[0].data
    )
    assert told[1].data == {"turn": 3, "speaker": "caller", "text": "hello"} and told[3].data["result"] == "7"
    assert told[4].data["ended_ms"] == 4_000 and told[4].data["began_ms"] == 1_000
    desk.close()


def test_what_nobody_wants_is_not_written(tmp_path: Path) -> None:
    desk = make(tmp_path)
    followed: list[str] = []
    desk.follow = lambda event, packed: followed.append(event.type)
    desk.began(session())
    desk.said(session(), Line(3, "caller", "hello"))
    assert [one.type for one in waiting(desk)] == ["call.started"]
    assert followed == ["call.started", "call.transcript"]
    desk.close()


def test_a_call_that_lives_on_is_not_begun_twice(tmp_path: Path) -> None:
    desk = make(tmp_path)
    desk.began(session())
    first = waiting(desk)
    desk.close()
    desk = make(tmp_path)
    desk.began(session())  # its worker has reported it
    assert not waiting(desk) and CALL in desk.open_calls
    desk.over(session(), Cdr(CALL, "webrtc", "n1", 1_000, ended_ms=4_000))
    assert [one.type for one in waiting(desk)] == ["call.ended"] and first[0].type == "call.started"
    desk.close()
    with (tmp_path / "calls").open("ab") as torn:
        torn.write(b'{"call":"b-00')
    assert not len(again := OpenCalls(tmp_path / "calls"))
    with pytest.raises(ValueError, match="another run_dir or events_dir"):
        OpenCalls(tmp_path / "calls")
    again.close()


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, url: str, name: str = "n1"
) -> AsyncIterator[tuple[EventDesk, Sessions, Node]]:
    """A desk and sessions as a main process has them."""
    tasks: set[asyncio.Task[None]] = set()
    async with node(url, name) as here:
        desk = make(folder)
        sessions = Sessions(here.store, name, lambda work: tasks.add(asyncio.create_task(work)))
        sessions.watchers.append(desk)
        try:
            yield desk, sessions, here
        finally:
            for task in tasks:
                task.cancel()
            desk.close()


@pytest.mark.redis
def test_a_call_that_ended_while_its_gateway_was_away_is_told_of_when_it_is_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desks, "REPORTED_S", 0.1)

    async def story() -> None:
        async with gateway(folder, server.url) as (desk, sessions, here):
            sessions.begin(CALL, "webrtc", "web-0")
            sessions.begin(OTHER, "webrtc", "web-0")
            await here.delivered()
            assert [one.type for one in waiting(desk)] == ["call.started"] * 2
            sessions.begin(FORGOTTEN, "webrtc", "web-0", "count")
            await here.delivered()
            (begun,) = waiting(desk)
        with server.look() as look:
            look.delete(*look.keys(f"test:{{{FORGOTTEN}}}:*"))
        async with gateway(folder, server.url) as (desk, sessions, here):
            sessions.adopt(OTHER, "webrtc", "web-0")
            await desk.settle_former(sessions)
            await until(lambda: CALL not in sessions and CALL not in desk.open_calls, "settled")
            told = {one.call: one for one in waiting(desk)}
            assert set(told) == {CALL, FORGOTTEN}
            assert all((one.type, one.data["reason"]) == ("call.ended", "lost") for one in told.values())
            forgotten = told[FORGOTTEN].data
            assert forgotten["began_ms"] == begun.data["began_ms"] and forgotten["persona"] == "count"
            assert OTHER in desk.open_calls and OTHER in sessions
            await here.delivered()
        async with node(server.url, "n2") as elsewhere:  # the lease is n1's, which is gone: it runs out
            await until(lambda: server.look().get(f"test:{{{OTHER}}}:lease") is None, "free")
            theirs = Sessions(elsewhere.store, "n2", lambda work: None)
            kept = await elsewhere.store.read(OTHER, 1)
            assert kept is not None and await theirs.take_over(kept, session(OTHER))
            theirs.resume(OTHER, "web-9", "t")
            await elsewhere.delivered()
            async with gateway(folder, server.url) as (desk, sessions, here):
                await desk.settle_former(sessions)
                assert not waiting(desk) and OTHER not in desk.open_calls  # n2 tells of its end

    server = StateServer(first_program(), folder / "redis").start()
    try:
        play(story())
    finally:
        server.stop()
