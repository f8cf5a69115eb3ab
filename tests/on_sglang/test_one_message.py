"""The calls of a tick are one message to SGLang's scheduler; one that cannot be packed holds up no other."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from model_server.engine.sglang.asking import Answer
from model_server.engine.sglang.turn_item import TurnItem
from tests.on_sglang.conftest import CALLS
from tests.on_sglang.live import Calls
from tests.support.sglang_here import needs_sglang

pytestmark = needs_sglang


@pytest.fixture
def sent(under_sglang: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many turns each message to the scheduler has."""
    from sglang.srt.managers.io_struct import BatchTokenizedGenerateReqInput, TokenizedGenerateReqInput

    front, counts = under_sglang.host._engine.tokenizer_manager, list[int]()
    dispatch = front._dispatch_to_scheduler

    def counting(message: Any) -> Any:
        if isinstance(message, BatchTokenizedGenerateReqInput):
            counts.append(len(message))
        elif isinstance(message, TokenizedGenerateReqInput):
            counts.append(1)
        return dispatch(message)

    monkeypatch.setattr(front, "_dispatch_to_scheduler", counting)
    return counts


def test_the_calls_of_a_tick_are_one_message(calls: Callable[..., Calls], sent: list[int]) -> None:
    live = calls(5)
    live.go_on(12)
    assert sent == [5] * 12 and live.words


def test_a_turn_that_cannot_be_packed_holds_up_no_other(under_sglang: Any, sent: list[int]) -> None:
    host = under_sglang.host
    sessions = host.open_sessions(3)
    items = [TurnItem.silent(CALLS - 1 - n, 2 * 10**6 + n) for n in range(3)]
    items[1] = dataclasses.replace(items[1], text=(1, 1))  # of which its header knows nothing
    try:
        with capture_logs() as logs:
            answers = host.turns(list(zip(items, sessions, strict=True)))
    finally:
        host.close_sessions(sessions)
    assert [isinstance(answer, Answer) for answer in answers] == [True, False, True]
    assert [line["reason"] for line in logs] == [
        "ValueError: a micro-turn of 10 positions; its header says 8"
    ]
    assert sent == [2]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_is_gathered_is_sent_when_the_last_one_is_there_or_gone(failing: int) -> None:
    from model_server.engine.sglang.front import Together

    sent: list[list[int]] = []

    async def send(requests: list[int]) -> None:
        sent.append(requests)

    async def story() -> None:
        together = Together(3, send)

        async def one(number: int) -> None:
            await asyncio.sleep(0)
            if number == failing:
                raise ValueError(number)
            await together.add(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(3)]
        for task in tasks:
            task.add_done_callback(together.over)
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(story())
    assert sent == [[number for number in range(3) if number != failing]]
