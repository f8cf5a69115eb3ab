"""Requests out to workers: each has one answer, a time limit, and an end when its worker goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway import control
from gateway.sip.outbound import Refused
from gateway.sip.worker_requests import MOST_OUT, WorkerRequests

ASKED = control.HangUp(0, "c@x")


class Line:
    """To one worker, which answers when it is told to."""

    def __init__(self, answer_s: float = 5.0) -> None:
        self.sent: list[control.HangUp] = []
        self.is_broken = False
        self.requests = WorkerRequests(lambda name: self.send if name == "sip-0" else None, answer_s)

    def send(self, packet: bytes) -> None:
        if self.is_broken:
            raise BlockingIOError
        message = control.decode_main(packet)
        assert isinstance(message, control.HangUp)
        self.sent.append(message)

    async def asked(self, count: int = 1) -> list[asyncio.Task[control.Answered]]:
        tasks = [asyncio.create_task(self.requests.ask("sip-0", ASKED)) for _ in range(count)]
        while len(self.sent) < count:
            await asyncio.sleep(0)
        return tasks


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))  # type: ignore[arg-type]


async def refusal(asking: Awaitable[control.Answered]) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        await asking
    return refused.value.status, refused.value.code


def test_each_gets_its_own_answer_and_a_second_one_is_nobody_s() -> None:
    async def story() -> None:
        line = Line()
        first, second = await line.asked(2)
        numbers = [message.id for message in line.sent]
        assert len(set(numbers)) == 2 and 0 not in numbers
        line.requests.answered(control.Answered(numbers[1], 200, call="b"))
        line.requests.answered(control.Answered(numbers[1], 500, call="again"))
        line.requests.answered(control.Answered(numbers[0], 200, call="a"))
        assert [(await task).call for task in (first, second)] == ["a", "b"]
        line.requests.answered(control.Answered(99, 200))

    run(story)


def test_what_follows_from_it_is_done_before_the_next_message_is_read() -> None:
    async def story() -> None:
        line, done = Line(), list[str]()
        asking = asyncio.create_task(
            line.requests.ask("sip-0", ASKED, lambda answered: done.append(answered.call))
        )
        while not line.sent:
            await asyncio.sleep(0)
        line.requests.answered(control.Answered(line.sent[0].id, 200, call="a"))
        assert done == ["a"] and not asking.done()
        await asking

    run(story)


def test_a_worker_that_refuses_is_away_or_says_nothing() -> None:
    async def story() -> None:
        line = Line(answer_s=0.01)
        assert await refusal(line.requests.ask("sip-1", ASKED)) == (503, "not-ready")
        assert await refusal(line.requests.ask("sip-0", ASKED)) == (504, "no-answer")
        for status, code in ((503, "no-room"), (409, "refused")):
            line.sent.clear()
            (asking,) = await line.asked()
            line.requests.answered(control.Answered(line.sent[0].id, status))
            assert await refusal(asking) == (status, code)
        line.is_broken = True
        assert await refusal(line.requests.ask("sip-0", ASKED)) == (504, "no-answer")

    run(story)


def test_who_waits_for_a_worker_that_goes_is_told_and_there_is_a_bound() -> None:
    async def story() -> None:
        line = Line()
        asked = await line.asked(MOST_OUT)
        assert await refusal(line.requests.ask("sip-0", ASKED)) == (503, "not-ready")
        line.requests.lose("sip-1")
        await asyncio.sleep(0)
        assert not any(task.done() for task in asked)
        line.requests.lose("sip-0")
        for task in asked:
            assert await refusal(task) == (503, "no-room")

    run(story)
