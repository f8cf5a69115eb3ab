"""What was said, on its way to Redis: whole, however long it is, and in order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway import control
from gateway.background.desk import Open
from gateway.background.door import (
    MOST_REQUEST_JSON_BYTES,
    MOST_RESULT_BYTES,
    MOST_TEXT_BYTES,
    TaskDoor,
    cut_as_json,
    keep_in,
    pieces_as_json,
)
from gateway.background.records import CUT, MOST_REQUEST_BYTES, Spoken
from gateway.state import keys
from gateway.state.records import Line, Task, decode
from gateway.state.sessions import Sessions
from tests.gateway.background.support import CALL, order
from tests.gateway.state.server import StateServer, node, play

WORDS = " ".join(f"word{n}" for n in range(130))
HARD = [WORDS, "ü" * 700, "\x01" * 512, '"\\' * 400, "a" * 399 + " b", "", "short", " " * 900, "x" * 1_024]


class Nobody:
    """A kind of worker that has nothing to say."""

    def welcome(self, ready: Any, send: Any) -> int:
        return 0

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        raise AssertionError(message)

    def lose(self, worker: str) -> int:
        return 0


@pytest.mark.parametrize("text", HARD)
def test_pieces_fit_and_nothing_but_blanks_is_missing(text: str) -> None:
    pieces = pieces_as_json(text, MOST_TEXT_BYTES)
    assert all(len(msgspec.json.encode(piece)) <= MOST_TEXT_BYTES for piece in pieces)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert len(pieces) <= 40 and pieces
    if text is WORDS:
        assert " ".join(pieces) == WORDS


@pytest.mark.parametrize("text", HARD)
def test_what_is_cut_says_so(text: str) -> None:
    cut = cut_as_json(text, 300)
    assert len(msgspec.json.encode(cut)) <= 300
    assert cut == text or (cut.endswith(CUT) and text.startswith(cut.removesuffix(CUT)))
    assert cut_as_json("\x01" * MOST_REQUEST_BYTES, MOST_REQUEST_JSON_BYTES) == "\x01" * MOST_REQUEST_BYTES


@pytest.mark.redis
def test_a_long_line_is_in_the_transcript_whole_and_in_its_place(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            sessions = Sessions(here.store, "n1", lambda work: work.close())
            door = TaskDoor(Nobody(), str, sessions, "n1")
            sessions.begin(CALL, "webrtc", "web-0")
            lines = (
                Spoken(1, "caller", WORDS),
                Spoken(1, "model", "x" * 1_024, 1_600),
                Spoken(2, "caller", "\x01" * 1_024),
            )
            door.hear("web-0", control.Said(CALL, lines))
            keep = keep_in(sessions, "n1")
            keep(Open(order(request="\x01" * MOST_REQUEST_BYTES), 1e9), "done", "\x01" * 30_000)
            await here.delivered()
            kept = await here.store.read(CALL)
            assert kept is not None
            assert all(len(line) <= keys.MOST_LINE_BYTES for line in kept.lines)
            rows = [decode(Line, line) for line in kept.lines]
            assert [(row.turn, row.speaker) for row in rows] == sorted(
                (row.turn, row.speaker) for row in rows
            )
            texts = [
                [row.text for row in rows if row.turn == s.turn and row.speaker == s.speaker] for s in lines
            ]
            assert " ".join(texts[0]) == WORDS and len(texts[0]) > 1
            assert "".join(texts[1]) == lines[1].text and "".join(texts[2]) == lines[2].text
            assert {row.played_samples for row in rows if row.speaker == "model"} == {1_600}
            (task,) = [decode(Task, record) for record in kept.tasks.values()]
            assert task.request == "\x01" * MOST_REQUEST_BYTES and task.result.endswith(CUT)
            assert len(msgspec.json.encode(task.result)) <= MOST_RESULT_BYTES
            assert here.store.counters.refused_size == 0

    play(story())
