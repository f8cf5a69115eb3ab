"""Tasks in a real Valkey and a real Redis: asked once, worked at by one, over once, whoever dies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from gateway.background import eyes as eyes_of_worker
from gateway.background import scripts, worker
from gateway.background.desk import MOST_STILLS, Desk
from gateway.background.eyes import NONE_CAME, Eyes
from gateway.background.line import FREE_MS, MOST_ATTEMPTS, Taken, TaskLine
from gateway.background.records import MOST_PIECES, News, Still
from tests.gateway.background.support import (
    CALL,
    NODE,
    Reader,
    Scripted,
    caller,
    is_over,
    line,
    order,
    told,
    working,
)
from tests.gateway.state.server import NAMESPACE, StateServer, play, until

pytestmark = pytest.mark.redis

LONG_MS = 60_000


async def taken_by(here: TaskLine, name: str) -> Taken:
    ((entry, key),) = await here.take(name, 1)
    taken = await here.begin(name, entry, key)
    assert taken is not None
    return taken


async def left(here: TaskLine, server: StateServer) -> int:
    with server.look() as look:
        pending: Any = look.xpending(f"{NAMESPACE}:{{tasks}}:queue", scripts.GROUP)
        return look.xlen(f"{NAMESPACE}:{{tasks}}:queue") + int(pending["pending"])


def test_a_task_is_asked_for_once(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            await here.make_group()
            await here.make_group()
            assert await here.ask(order(), LONG_MS) == "asked"
            assert await here.ask(order(), LONG_MS) == "known"
            assert len(await here.take("w1", 5)) == 1
            assert await here.take("w2", 5) == []

    play(story())


def test_its_life_from_end_to_end(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            reader = Reader(here)
            await here.make_group()
            await here.ask(order(lines=caller("three", "plus four")), LONG_MS)
            taken = await taken_by(here, "w1")
            assert taken.order == order(lines=caller("three", "plus four"))
            assert (taken.attempt, taken.said) == (1, "") and 0 < taken.left_ms <= LONG_MS
            assert await here.publish(taken, "w1", "running", "Sé. ", said_bytes=0)
            assert await here.publish(taken, "w1", "running", "Sé. ", said_bytes=0)  # its answer was lost
            assert await here.publish(taken, "w1", "done", "Seven.", said_bytes=5)
            assert not await here.publish(taken, "w1", "done", "Seven.", said_bytes=5)
            assert not await here.renew(taken, "w1")
            news = await reader.until(is_over)
            assert told(news) == [(1, "running", ""), (2, "running", "Sé. "), (3, "done", "Seven.")]
            assert await left(here, server) == 0
            with server.look() as look:
                kept: Any = look.hgetall(f"{NAMESPACE}:{{tasks}}:task:{order().key}")
            assert kept[b"state"] == b"done" and b"order" not in kept and b"text" not in kept
            await here.forget_news(NODE, [name for name, _ in await here.news(NODE, "0-0")])
            assert await here.news(NODE, "0-0") == []

    play(story())


def test_who_lost_a_task_can_say_nothing_more(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            reader = Reader(here)
            await here.make_group()
            await here.ask(order(), LONG_MS)
            first = await taken_by(here, "w1")
            await here.publish(first, "w1", "running", "One. ")
            assert await here.take_over("w2", 5, 1_000) == []
            await here.give_back(first, "w1")
            ((entry, key),) = await here.take_over("w2", 5, FREE_MS // 2)
            second = await here.begin("w2", entry, key)
            assert second is not None and (second.attempt, second.said) == (2, "One. ")
            assert not await here.publish(first, "w1", "done", "First.", said_bytes=5)
            assert not await here.renew(first, "w1")
            assert await here.renew(second, "w2")
            assert await here.publish(second, "w2", "done", "Two.", said_bytes=5)
            news = await reader.until(is_over)
            assert [text for _, _, text in told(news)] == ["", "One. ", "", "Two."]
            assert await left(here, server) == 0

    play(story())


def test_cancelling_ends_it_wherever_it_is(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            await here.make_group()
            await here.ask(order(1), LONG_MS)
            await here.ask(order(2), LONG_MS)
            taken = await taken_by(here, "w1")
            assert await here.cancel(order(1).key) and not await here.cancel(order(1).key)
            assert await here.cancel(order(2).key) and not await here.cancel("b-unknown.1")
            assert not await here.publish(taken, "w1", "running", "x") and not await here.renew(taken, "w1")
            assert await here.take("w2", 5) == [] and await left(here, server) == 0

    play(story())


def test_a_task_out_of_time_is_begun_by_nobody(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            reader = Reader(here)
            await here.make_group()
            await here.ask(order(), 1)
            await asyncio.sleep(0.01)
            ((entry, key),) = await here.take("w1", 1)
            assert await here.begin("w1", entry, key) is None
            assert (await reader.until(is_over))[-1].note == "out of time" and await left(here, server) == 0

    play(story())


def test_a_task_that_kills_its_workers_is_given_up(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            reader = Reader(here)
            await here.make_group()
            await here.ask(order(), LONG_MS)
            ((entry, key),) = await here.take("w0", 1)
            for attempt in range(MOST_ATTEMPTS):
                assert await here.begin(f"w{attempt}", entry, key) is not None
            assert await here.begin("w9", entry, key) is None
            assert (await reader.until(is_over))[-1].note == "its workers died"

    play(story())


def test_the_queue_and_what_a_call_costs_have_bounds(
    server: StateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with line(server) as here:
            assert await here.ask(order(1), LONG_MS) == "asked"
            assert await here.ask(order(2), LONG_MS) == "full"
            assert await here.reserve(CALL, 60, 600, 100, 0)
            assert not await here.reserve(CALL, 41, 0, 100, 0)
            assert not await here.reserve(CALL, 0, 401, 0, 1_000)
            assert await here.reserve(CALL, -20, -200, 0, 0)
            assert await here.reserve(CALL, 60, 600, 100, 1_000)
            assert not await here.reserve(CALL, 1, 1, 100, 1_000)

    monkeypatch.setattr(scripts, "MOST_QUEUED", 1)
    play(story())


def test_a_server_that_came_back_empty(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            await here.make_group()
            with server.look() as look:
                look.flushall()
            assert await here.take("w1", 1) == [] and await here.take_over("w1", 1, 0) == []
            await here.ask(order(), LONG_MS)
            assert len(await here.take("w1", 1)) == 1

    play(story())


def test_news_that_nobody_can_read_are_not_in_the_way(server: StateServer) -> None:
    async def story() -> None:
        async with line(server) as here:
            with server.look() as look:
                for fields in ({"state": "done"}, {"key": b"\xff", "number": "x"}):
                    look.xadd(f"{NAMESPACE}:{{tasks}}:news:{NODE}", fields)  # type: ignore[arg-type]
                look.expire(f"{NAMESPACE}:{{tasks}}:news:{NODE}", 60)
            assert [news for _, news in await here.news(NODE, "0-0")] == [None, None]

    play(story())


# -- workers


def test_a_worker_works_at_several_at_once_and_says_pieces_as_they_come(server: StateServer) -> None:
    async def story() -> None:
        answerer = Scripted()
        async with line(server) as here, working(server, answerer) as one:
            reader = Reader(here)
            for number in (1, 2, 3):
                await here.ask(order(number), LONG_MS)
            await until(lambda: len(answerer.answered) == 3, "all begun")
            for _ in range(3):
                answerer.go.release()
            news = await reader.until(lambda n: sum(bool(x.text) for x in n) == 3)
            assert {(x.text, x.worker) for x in news if x.text} == {("One. ", one.name)} or {
                x.text.strip() for x in news if x.text
            } == {"One."}
            for _ in range(6):
                answerer.go.release()
            news = await reader.until(lambda n: sum(x.state == "done" for x in n) == 3)
            for number in (1, 2, 3):
                assert "".join(text for _, _, text in told(news, f"{number}-ab")) == "One. Two. Three."
            assert await left(here, server) == 0

    play(story())


def test_a_worker_that_stops_gives_back_and_another_goes_on(server: StateServer) -> None:
    async def story() -> None:
        first, second = Scripted(), Scripted()
        async with line(server) as here:
            reader = Reader(here)
            async with working(server, first):
                await here.ask(order(), LONG_MS)
                await until(lambda: len(first.answered) == 1)
                first.go.release()
                await reader.until(lambda news: any(n.text for n in news))
            assert first.cancelled == 1
            for _ in range(3):
                second.go.release()
            async with working(server, second):
                news = await reader.until(is_over)
            ((_, said),) = second.answered
            assert said.strip() == "One."
            assert "".join(text for _, _, text in told(news)) == "One. Two. Three."

    play(story())


def test_a_worker_drops_what_was_cancelled(server: StateServer) -> None:
    async def story() -> None:
        answerer = Scripted()
        async with line(server) as here, working(server, answerer) as one:
            await here.ask(order(), LONG_MS)
            await until(lambda: len(answerer.answered) == 1)
            await here.cancel(order().key)
            await until(lambda: answerer.cancelled == 1, "dropped")
            await until(lambda: one.counters.withdrawn == 1, "counted")

    play(story())


@pytest.mark.parametrize(
    ("words", "fails", "note"),
    [
        (("One. ",), "no such thing", "no such thing"),
        ((), "", "an empty answer"),
        ((" ", "\n"), "", "an empty answer"),
    ],
)
def test_what_has_no_answer_has_failed(
    server: StateServer, words: tuple[str, ...], fails: str, note: str
) -> None:
    async def story() -> None:
        answerer = Scripted(words, fails)
        for _ in words:
            answerer.go.release()
        async with line(server) as here, working(server, answerer) as one:
            await here.ask(order(), LONG_MS)
            news = await Reader(here).until(is_over)
            assert (news[-1].state, news[-1].note) == ("failed", note)
            await until(lambda: one.finished == 1)
            assert (one.counters.failed, one.counters.done) == (1, 0)

    play(story())


def test_a_bug_of_ours_ends_one_task_alone(server: StateServer) -> None:
    class Broken(Scripted):
        async def answer(self, order: Any, said: str) -> Any:
            if order.task == "1-ab":
                raise ZeroDivisionError
            async for step in super().answer(order, said):
                yield step

    async def story() -> None:
        answerer = Broken(("Fine.",))
        answerer.go.release()
        async with line(server) as here, working(server, answerer) as one:
            await here.ask(order(1), LONG_MS)
            await here.ask(order(2), LONG_MS)
            news = await Reader(here).until(lambda n: sum(x.state in ("done", "failed") for x in n) == 2)
            assert {x.task: x.state for x in news} == {"1-ab": "failed", "2-ab": "done"}
            await until(lambda: one.finished == 2)
            assert (one.counters.broken, one.counters.done) == (1, 1)
            assert sum(n for name, n in one.task_time.report().items() if not name.endswith("sum")) == 2
            assert one.gauges()["worker_tasks_running"] == 0 and one.gauges()["worker_connected"] == 1

    with structlog.testing.capture_logs() as logs:
        play(story())
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["task broken"]


def test_a_deadline_ends_the_work(server: StateServer) -> None:
    async def story() -> None:
        answerer = Scripted()
        async with line(server) as here, working(server, answerer) as one:
            await here.ask(order(), 700)
            news = await Reader(here).until(is_over)
            assert (news[-1].state, news[-1].note) == ("failed", "out of time") and answerer.cancelled == 1
            assert one.counters.timed_out == 1

    play(story())


def test_a_result_without_an_end_is_cut(server: StateServer) -> None:
    async def story() -> None:
        answerer = Scripted(tuple(f"Sentence {number}. " for number in range(4 * MOST_PIECES)))
        for _ in answerer.words:
            answerer.go.release()
        async with line(server) as here, working(server, answerer):
            await here.ask(order(), LONG_MS)
            news = await Reader(here).until(is_over)
            assert news[-1].state == "done" and news[-1].note.startswith("cut")
            assert sum(bool(n.text) for n in news) == MOST_PIECES - 1

    play(story())


# -- the gateway's half


class Calls:
    def __init__(self) -> None:
        self.news: list[News] = []
        self.notes: list[tuple[str, str]] = []
        self.known = True

    def deliver(self, news: News) -> bool:
        if self.known:
            self.news.append(news)
        return self.known


def make_desk(server: StateServer, calls: Calls, deadline_s: float = 60.0, most: int = 4) -> Desk:
    from gateway.state.address import parse
    from gateway.state.client import Login

    return Desk(
        lambda: TaskLine(parse(server.url), Login(), NAMESPACE, NODE),
        NODE,
        deadline_s=deadline_s,
        most_of_a_call=most,
        deliver=calls.deliver,
        note=lambda task, state, result: calls.notes.append((state, result)),
    )


def test_a_desk_asks_hears_and_forgets(server: StateServer) -> None:
    async def story() -> None:
        calls, answerer = Calls(), Scripted(("Seven.",))
        desk = make_desk(server, calls, most=2)
        assert desk.ask(order(1))[0] == "asked" and desk.ask(order(1))[0] == "asked"
        assert desk.ask(order(2))[0] == "asked" and desk.ask(order(3))[0] == "failed"
        running = asyncio.create_task(desk.run())
        async with line(server) as here, working(server, answerer):
            await until(lambda: len(answerer.answered) == 2, "both begun")
            answerer.go.release()
            await until(lambda: desk.counters.done == 1, "done")
            desk.withdraw(CALL)
            await desk.settle(5.0)
            await until(lambda: answerer.cancelled == 1, "the other is dropped")
            assert [n.state for n in calls.news].count("done") == 1
            assert not desk.open_tasks and desk.counters.cancelled == 1 and desk.counters.refused == 1
            assert ("done", "Seven.") in calls.notes and ("cancelled", "") in calls.notes
            assert await left(here, server) == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    play(story())


def test_a_desk_without_a_server_waits_and_nobody_waits_for_it(server: StateServer) -> None:
    async def story() -> None:
        calls, answerer = Calls(), Scripted(("Seven.",))
        desk = make_desk(server, calls)
        server.kill()
        running = asyncio.create_task(desk.run())
        desk.ask(order(1))
        desk.ask(order(2))
        desk.withdraw(CALL, "2-ab")
        await asyncio.sleep(0.3)
        assert desk.open_tasks == 1
        server.start()
        answerer.go.release()
        async with working(server, answerer):
            await until(lambda: desk.counters.done == 1, "done after all")
        assert [task for task, _ in answerer.answered] == ["1-ab"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    play(story())


def test_news_wait_for_a_worker_that_comes_back(server: StateServer) -> None:
    """As after a restart of the main process: the news are there before the calls are."""

    async def story() -> None:
        calls, answerer = Calls(), Scripted(("One. ", "Two."))
        calls.known = False
        async with line(server) as here, working(server, answerer):
            await here.ask(order(), LONG_MS)
            desk = make_desk(server, calls)
            running = asyncio.create_task(desk.run())
            answerer.go.release()
            answerer.go.release()
            await Reader(here).until(is_over)
            calls.known = True
            await until(lambda: bool(calls.news) and calls.news[-1].state == "done", "delivered")
            assert [n.number for n in calls.news] == [1, 2, 3][: len(calls.news)] or len(calls.news) >= 2
            assert "".join(n.text for n in calls.news) == "One. Two."
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    play(story())


def test_a_worker_renews_what_takes_long(server: StateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one looks for idle tasks all the time, and never finds this one."""

    async def story() -> None:
        first, second = Scripted(("Late.",)), Scripted(("Stolen.",))
        async with line(server) as here, working(server, first):
            await here.ask(order(), LONG_MS)
            await until(lambda: len(first.answered) == 1)
            async with working(server, second):
                await asyncio.sleep(1.0)
                first.go.release()
                news = await Reader(here).until(is_over)
            assert "".join(n.text for n in news) == "Late." and not second.answered

    monkeypatch.setattr(worker, "RENEW_S", 0.1)
    monkeypatch.setattr(worker, "IDLE_MS", 500)
    play(story())


# -- pictures of the camera


def test_a_picture_is_asked_for_and_read_once(server: StateServer) -> None:
    """Real Redis both ways; whoever was killed, cancelled or had enough gets none."""

    async def story() -> None:
        async with line(server) as here:
            await here.make_group()
            await here.ask(order(camera=True), LONG_MS)
            key = order().key
            assert await here.look(order(), 2) == 0  # nobody works at it
            taken = await taken_by(here, "w1")
            assert taken.order.camera
            assert await here.look(taken.order, 2) == 1 and await here.look(taken.order, 2) == 2
            assert not await here.show(key, Still(1, b"old"))  # of a wish that was given up
            assert await here.show(key, Still(2, b"\xff\xd8"))
            with server.look() as look:
                assert 0 < look.ttl(f"{NAMESPACE}:{{tasks}}:still:{key}") <= scripts.STILL_S
            assert await here.still(key) == Still(2, b"\xff\xd8") and await here.still(key) is None
            assert await here.look(taken.order, 2) == -1
            wishes = [news for _, news in await here.news(NODE, "0-0") if news is not None and news.still]
            assert [(news.still, news.state, news.text) for news in wishes] == [
                (1, "running", ""),
                (2, "running", ""),
            ]

    play(story())


@pytest.mark.parametrize("end", ["cancelled", "done"])
def test_a_picture_that_nobody_read_goes_with_its_task(server: StateServer, end: str) -> None:
    async def story() -> None:
        async with line(server) as here:
            await here.make_group()
            await here.ask(order(camera=True), LONG_MS)
            taken = await taken_by(here, "w1")
            assert await here.look(taken.order, 2) == 1 and await here.show(order().key, Still(1, b"x"))
            if end == "done":
                await here.publish(taken, "w1", "done", "Seven.")
            else:
                await here.cancel(order().key)
            with server.look() as look:
                assert not look.exists(f"{NAMESPACE}:{{tasks}}:still:{order().key}")
            assert not await here.show(order().key, Still(1, b"x"))

    play(story())


class Photographer(Calls):
    """Calls whose camera is asked through the desk."""

    def __init__(self, *stills: Still) -> None:
        super().__init__()
        self.desk: Desk | None = None
        self.stills = list(stills)

    def deliver(self, news: News) -> bool:
        if news.still and self.stills and self.desk is not None:
            self.desk.show(news.key, self.stills.pop(0))
        return True


def test_who_looks_gets_what_the_gateway_shows_or_a_reason(
    server: StateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        off = Still(2, reason="the camera is off")
        calls = Photographer(Still(1, b"\xff\xd8"), off)
        desk = make_desk(server, calls)
        calls.desk = desk
        desk.ask(order(camera=True))
        running = asyncio.create_task(desk.run())
        async with line(server) as here:
            await here.make_group()
            taken = await taken_by(here, "w1")
            eyes = Eyes(here, 3)
            assert await eyes.look(taken.order) == Still(1, b"\xff\xd8")
            assert await eyes.look(taken.order) == off
            assert (await eyes.look(taken.order)).reason == NONE_CAME  # its worker says nothing
            assert "3 looks" in (await eyes.look(taken.order)).reason
            assert (desk.counters.stills, desk.counters.stills_missing) == (1, 1)
            assert desk.counters.stills_dropped == 0
            for number in range(MOST_STILLS + 2):  # more than there is room for, and of tasks that are none
                desk.show(f"{CALL}.{number}-zz", Still(1, b"x"))
            assert desk.counters.stills_dropped == 2
            await until(lambda: desk.counters.stills_dropped == MOST_STILLS + 2, "each is counted")
            assert desk.counters.stills == 1
            desk.withdraw(CALL)
            await desk.settle(5.0)
            assert (await eyes.look(taken.order)).reason == NONE_CAME
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    monkeypatch.setattr(eyes_of_worker, "LOOK_S", 1.5)
    play(story())
