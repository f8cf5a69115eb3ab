"""The transcript goes to whoever takes a caller, in one event, for endpoints that ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.events import handovers as handovers_file
from gateway.events.desk import EventDesk
from gateway.events.handovers import MOST_BYTES, MOST_WAITING, Handovers
from gateway.events.open_calls import OpenCalls
from gateway.events.records import Event, decode, encode
from gateway.sip.call_events import CallEvent
from gateway.state.records import Line
from gateway.state.sessions import Sessions
from tests.gateway.events.support import outbox, rest, spool_at
from tests.gateway.state.conftest import folder
from tests.gateway.state.server import Node, StateServer, first_program, node, play

__all__ = ["folder"]
pytestmark = pytest.mark.redis

CALL, LONG = "t-00000000000000aa", "t-00000000000000bb"


@pytest.fixture
def server(folder: Path) -> Iterator[StateServer]:
    here = StateServer(first_program(), folder)
    try:
        yield here.start()
    finally:
        here.stop()


def desk_at(folder: Path) -> EventDesk:
    spool = spool_at(folder / "spool")
    return EventDesk("n1", spool, OpenCalls(folder / "calls"), [outbox(spool, events=("call.handover",))])


def told(desk: EventDesk) -> list[Event]:
    assert desk.spool is not None
    return [decode(payload) for payload in rest(desk.spool)]


async def some(desk: EventDesk, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += told(desk)
            await asyncio.sleep(0.01)
    return found


def sessions_of(here: Node) -> Sessions:
    return Sessions(here.store, "n1", lambda work: work.close())


def test_what_was_said_until_then_is_told_once(server: StateServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            desk, sessions = desk_at(tmp_path), sessions_of(here)
            handovers = Handovers(desk, sessions)
            running = asyncio.create_task(handovers.run())
            for call in (CALL, LONG):
                sessions.begin(call, "sip", "sip-0")
            sessions.said(CALL, Line(3, "caller", "my name is Anna"))
            sessions.said(CALL, Line(5, "model", "hello Anna"))
            for turn in range(200):
                sessions.said(LONG, Line(turn, "caller", f"{turn} " + "\n" * 200))
            session = sessions.find(CALL)
            long = sessions.find(LONG)
            assert session is not None and long is not None
            handovers.begin(session, CallEvent(CALL, "transferring", target="sales"), "1")
            handovers.begin(session, CallEvent(CALL, "joined", person=LONG), "2")
            handovers.begin(long, CallEvent(LONG, "transferring", target="sales"), "3")
            first, second, third = await some(desk, 3)
            lines = [
                {"turn": 3, "speaker": "caller", "text": "my name is Anna"},
                {"turn": 5, "speaker": "model", "text": "hello Anna"},
            ]
            assert (first.type, first.data) == ("call.handover", {"target": "sales", "lines": lines})
            assert second.data == {"person": LONG, "lines": lines} and first.id != second.id
            newest = third.data["lines"]
            assert third.data["more"] and newest[-1]["turn"] == 199
            assert MOST_BYTES * 0.9 < len(encode(third)) < 1.1 * MOST_BYTES
            running.cancel()
            desk.close()

    play(story())


def test_without_an_answer_it_is_told_without_the_words(
    server: StateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handovers_file, "PATIENCE_S", 0.2)

    async def story() -> None:
        async with node(server.url) as here:
            desk, sessions = desk_at(tmp_path), sessions_of(here)
            sessions.begin(CALL, "sip", "sip-0")
            session = sessions.find(CALL)
            assert session is not None
            await here.delivered()
            server.kill()
            handovers = Handovers(desk, sessions)
            running = asyncio.create_task(handovers.run())
            handovers.begin(session, CallEvent(CALL, "transferring", target="sales"), "away")
            (away,) = await some(desk, 1)
            assert away.data == {"target": "sales", "unknown": True}
            running.cancel()

            for number in range(MOST_WAITING + 1):  # nobody works any more: the last one has no place
                handovers.begin(session, CallEvent(CALL, "joined", person=LONG), str(number))
            assert len(told(desk)) == 1
            handovers.close()
            assert len(told(desk)) == MOST_WAITING
            desk.close()
            server.start()

    play(story())
