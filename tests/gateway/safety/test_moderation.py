"""An endpoint elsewhere: right, slow, broken, or away. A real server, and the real desk and intercom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway import control
from gateway.background.records import Spoken
from gateway.intercom import Intercom
from gateway.safety import moderation
from gateway.safety.desk import SafetyDesk, SafetyEvent
from gateway.safety.moderation import (
    MOST_BEFORE,
    MOST_WAITING,
    UNCHECKED,
    Heard,
    ModerationOptions,
    Moderator,
)
from gateway.safety.policy import Do

KEY = "sk-of-a-test"
PATIENCE_S = 5.0


class Endpoint:
    """OpenAI's moderation, which flags what has a word in it."""

    word = "bad"

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.headers: list[str] = []
        self.answer: Callable[[], web.Response] | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.url = ""

    async def moderate(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.inputs.append(asked)
        self.headers.append(request.headers.get("Authorization", ""))
        await self.held.wait()
        if self.answer is not None:
            return self.answer()
        bad = self.word in asked["input"]
        result = {"flagged": bad, "categories": {"violence": bad, "hate/threatening": bad, "sexual": False}}
        return web.json_response({"id": "modr-1", "model": "omni", "results": [result]})


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[Endpoint]:
    endpoint, app = Endpoint(), web.Application()
    app.router.add_post("/v1/moderations", endpoint.moderate)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    endpoint.url = f"http://127.0.0.1:{port}/v1/moderations"
    try:
        yield endpoint
    finally:
        endpoint.held.set()
        await runner.cleanup()


Flags = list[tuple[Heard, tuple[str, ...]]]


@contextlib.asynccontextmanager
async def moderating(url: str, **more: Any) -> AsyncIterator[tuple[Moderator, Flags]]:
    flags: Flags = []
    moderator = Moderator(ModerationOptions(url, **more), lambda heard, as_: flags.append((heard, as_)))
    running = asyncio.create_task(moderator.run())
    try:
        yield moderator, flags
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


def lines(turn: int, *texts: str) -> list[Spoken]:
    return [Spoken(turn + at, "model", text, 3_200) for at, text in enumerate(texts)]


def test_what_the_model_was_heard_to_say_is_asked_about() -> None:
    async def story() -> None:
        async with (
            served() as endpoint,
            moderating(endpoint.url, key=KEY, model="omni") as (moderator, flags),
        ):
            said = [
                Spoken(1, "caller", "bad caller"),
                Spoken(2, "model", "[cut]"),
                *lines(3, "all ", "well "),
            ]
            moderator.said("w", "c", said)
            moderator.said("w", "c", [Spoken(4, "caller", "bad")])
            await until(lambda: endpoint.inputs)
            moderator.said("w", "c", lines(9, "and ba", "d "))
            moderator.said("w", "d", lines(2, "fine "))
            await until(lambda: moderator.counters.asked == 3 and flags)
            assert endpoint.inputs[0] == {"input": "all well", "model": "omni"}
            assert {"input": "all well and bad", "model": "omni"} in endpoint.inputs[1:]
            assert {"input": "fine", "model": "omni"} in endpoint.inputs[1:]
            assert set(endpoint.headers) == {f"Bearer {KEY}"} and KEY not in repr(moderator._options)
            assert flags == [(Heard("w", "c", 10, "all well and bad"), ("hate/threatening", "violence"))]
            moderator.said("w", "c", lines(20, "fine again "))  # what was flagged is not asked about again
            await until(lambda: len(endpoint.inputs) == 4)
            assert endpoint.inputs[3]["input"] == "fine again"
            assert (moderator.counters.flagged, moderator.counters.failed) == (1, 0) and len(flags) == 1

    asyncio.run(story())


def answers(*given: Any) -> list[Callable[[], web.Response]]:
    return [
        lambda: web.Response(status=500, text="bad"),
        lambda: web.Response(text="<html>"),
        lambda: web.json_response({"results": []}),
        lambda: web.json_response({"results": [{"categories": {}}]}),
        lambda: web.json_response({"results": [{"flagged": "yes"}]}),
        lambda: web.json_response([1]),
        lambda: web.Response(body=b"\xff\xfe\x00"),
        lambda: web.Response(text='{"results": ' + "[" * 50_000),
        lambda: web.json_response({"results": [{"flagged": False}], "pad": "x" * 100_000}),
        lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
    ]


@pytest.mark.parametrize("closed", [False, True])
def test_garbage_is_counted_and_passes_or_flags_as_it_is_set(closed: bool) -> None:
    async def story() -> None:
        async with served() as endpoint, moderating(endpoint.url, closed=closed) as (moderator, flags):
            for number, answer in enumerate(answers(), 1):
                endpoint.answer = answer
                moderator.said("w", f"c{number}", lines(number, "bad "))
                await until(lambda wanted=number: moderator.counters.failed == wanted)
            endpoint.answer = None
            moderator.said("w", "last", lines(0, "bad "))
            await until(lambda: moderator.counters.flagged == 1)
            assert len(flags) == (len(answers()) if closed else 0) + 1
            assert {categories for _, categories in flags[:-1]} == ({(UNCHECKED,)} if closed else set())

    asyncio.run(story())


def test_slow_and_absent_endpoints_cost_their_time_and_the_queue_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with served() as endpoint, moderating(endpoint.url, answer_s=0.1) as (moderator, flags):
            endpoint.held.clear()
            moderator.said("w", "c", lines(0, "bad "))
            await until(lambda: moderator.counters.failed == 1)
            endpoint.held.set()
            moderator.said("w", "d", lines(0, "bad "))
            await until(lambda: moderator.counters.flagged == 1)
            for number in range(MOST_WAITING + 40):  # nobody has been asked yet
                moderator.said("w", f"c{number}", lines(0, "fine "))
            assert moderator.counters.unasked == 40
            await until(lambda: moderator.counters.asked == 2 + MOST_WAITING)
            assert len(flags) == 1
        async with moderating("http://127.0.0.1:9/v1/moderations") as (moderator, flags):  # nobody is there
            moderator.said("w", "c", lines(0, "bad "))
            await until(lambda: moderator.counters.failed == 1)
            assert not flags

    monkeypatch.setattr(moderation, "MOST_CALLS", 64)
    asyncio.run(story())


def test_what_was_said_before_goes_along_and_is_bounded() -> None:
    async def story() -> None:
        async with served() as endpoint, moderating(endpoint.url) as (moderator, _):
            for number in range(200):
                moderator.said("w", "c", lines(number, f"word{number} "))
            await until(lambda: len(endpoint.inputs) == 200)
            assert max(len(asked["input"]) for asked in endpoint.inputs) <= MOST_BEFORE + 9
            moderator.over("w", "c")
            assert not moderator._before

    asyncio.run(story())


class Inner:
    """A kind of worker that has nothing to say."""

    def welcome(self, ready: Any, send: Any) -> int:
        return 0

    def hear(self, worker: str, message: Any) -> None: ...
    def lose(self, worker: str) -> int:
        return 0


@pytest.mark.parametrize(
    ("do", "status", "command", "did"),
    [
        ("cut", 204, ("cut", "moderation"), "cut"),
        ("cut", 409, ("cut", "moderation"), "report"),
        ("hang-up", 204, ("hang-up", "safety"), "hang-up"),
        ("report", 204, None, "report"),
    ],
)
def test_what_was_flagged_is_cut_by_the_intercom_and_told(
    do: Do, status: int, command: tuple[str, str] | None, did: Do
) -> None:
    async def story() -> None:
        async with served() as endpoint, asyncio.TaskGroup() as group:
            sent: list[control.Command] = []
            events: list[SafetyEvent] = []
            intercom = Intercom(lambda call: None)
            desk = SafetyDesk(
                intercom,
                lambda work: tasks.append(group.create_task(work)),
                ModerationOptions(endpoint.url),
                do,
            )
            tasks: list[asyncio.Task[None]] = [group.create_task(desk.run())]
            desk.watchers.append(events.append)
            door = intercom.door(desk.door(Inner(), lambda inside: f"t-{inside}"))

            def worker(packet: bytes) -> None:
                message = control.decode_main(packet)
                assert isinstance(message, control.Command)
                sent.append(message)
                door.hear("sip-0", control.Done(message.id, status))

            door.welcome(control.Ready("sip-0", 1, 2, 3, 8_000, "x", True, []), worker)
            door.hear("sip-0", control.PolicyMet("c", "rude", "report", 4))
            door.hear("sip-0", control.Said("c", tuple(lines(7, "so ", "bad "))))
            await until(lambda: len(events) == 2)
            door.hear("sip-0", control.CallEnded("c"))
            assert events[0] == SafetyEvent("t-c", "rude", "report", 4)
            assert events[1] == SafetyEvent("t-c", "moderation", did, 8, ("hate/threatening", "violence"))
            assert [(m.call, m.do, m.value) for m in sent] == ([("c", *command)] if command else [])
            assert desk.counters()["moderation"].flagged == 1
            tasks[0].cancel()

    asyncio.run(story())
