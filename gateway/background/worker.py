"""The process `microturn worker`: takes tasks from the queue, has them answered, and publishes as it goes.

    take, or take over -> begin -> answer, piece by piece -> publish ... publish done or failed

While it works it renews each task every `RENEW_S`. One that shows no sign of life for `IDLE_MS` is another
worker's, which begins where the pieces end. What is not this worker's any more, since it was cancelled or taken
over, is dropped at once: nothing that it would still say is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from gateway.background.agent import Agent
from gateway.background.answers import Pieces
from gateway.background.chat import Chat
from gateway.background.eyes import Eyes
from gateway.background.line import Taken, TaskLine, task_line
from gateway.background.mcp_tools import McpServer
from gateway.background.records import MOST_NOTE_BYTES, MOST_PIECES, State, cut_text
from gateway.background.router import Router
from gateway.background.small_tools import Orders, calculate, clock
from gateway.background.threads import Threads
from gateway.background.tools import Toolbox, load, of_function
from gateway.background.work import Answerer, Doing, NoAnswer, Step
from gateway.config import GatewaySettings
from gateway.histogram import TASK, Histogram
from gateway.state.client import Away
from gateway.tracing.spans import Span, Value, parse

if TYPE_CHECKING:
    from gateway.tracing.export import Exporter

log = structlog.get_logger()

RENEW_S: Final = 1.0
IDLE_MS: Final = 4_000
MOST_PAUSE_S: Final = 1.0
LAST_WORD_S: Final = 5.0
"""Beyond its deadline, for saying that it failed."""
MEET_S: Final = 10.0
"""MCP servers are waited for so long at the start."""
R = TypeVar("R")


class NotOurs(Exception):
    """The task was cancelled, or another worker has it."""


@dataclass(slots=True)
class WorkerCounters:
    """Tasks that are over here, since the start of this process, by what became of them."""

    done: int = 0
    failed: int = 0
    timed_out: int = 0
    withdrawn: int = 0
    """Cancelled, or another worker's by now."""
    broken: int = 0
    """By a bug of ours."""
    given_back: int = 0
    """This process stopped."""
    taken_over: int = 0
    """Of all that were begun: from a worker that gave no sign of life."""


class Worker:
    """Of one process."""

    def __init__(
        self,
        line: TaskLine,
        answerer: Answerer,
        most_tasks: int,
        name: str = "",
        traced: Callable[[Span], None] | None = None,
    ) -> None:
        """`traced` gets a span of each attempt at a task whose call is traced."""
        self._traced = traced
        self.name = name or f"{os.uname().nodename[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.finished = 0
        self.counters = WorkerCounters()
        self.task_time = Histogram("task_time", TASK)
        """From when it was taken, us."""
        self.is_connected = False
        self._line, self._answerer, self._most = line, answerer, most_tasks
        self._running: dict[str, asyncio.Task[None]] = {}
        self._looked_s = 0.0

    def gauges(self) -> dict[str, float]:
        """Of now."""
        return {
            "worker_connected": float(self.is_connected),
            "worker_tasks_running": float(len(self._running)),
            "worker_tasks_limit": float(self._most),
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what is not done then is given back."""
        stopped = asyncio.create_task(stop.wait())
        taking = asyncio.create_task(self._take_for_ever())
        await asyncio.wait([stopped, taking], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        try:
            if taking.done():
                taking.result()
        finally:
            for task in (taking, *self._running.values()):
                task.cancel()
            await asyncio.gather(taking, *self._running.values(), return_exceptions=True)
            await self._answerer.close()
            await self._line.close()

    async def _take_for_ever(self) -> None:
        pause_s, met = 0.05, None
        while True:
            try:
                if met is None:
                    met = await self._line.ping()
                    await self._line.make_group()
                    log.info("tasks are taken", server=met, worker=self.name)
                    self.is_connected = True
                await self._take()
                pause_s = 0.05
            except Away as wrong:
                if met is not None:
                    log.warning("Redis is away", reason=str(wrong))
                met, self.is_connected = None, False
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MOST_PAUSE_S)

    async def _take(self) -> None:
        """As many as there is room for; waits for the first."""
        room = self._most - len(self._running)
        if not room:
            await asyncio.wait(self._running.values(), timeout=RENEW_S, return_when=asyncio.FIRST_COMPLETED)
            return
        now_s = asyncio.get_running_loop().time()
        found: list[tuple[str, str]] = []
        if now_s - self._looked_s >= RENEW_S:
            self._looked_s = now_s
            found = await self._line.take_over(self.name, room, IDLE_MS)
            self.counters.taken_over += len(found)
        if not found:
            found = await self._line.take(self.name, room)
        for entry, key in found:
            if key in self._running:
                continue
            taken = await self._line.begin(self.name, entry, key)
            if taken is not None:
                task = self._running[key] = asyncio.create_task(self._work(taken))
                task.add_done_callback(functools.partial(self._over, key))

    def _over(self, key: str, task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)

    # -- one task

    async def _work(self, taken: Taken) -> None:
        """To its end, whatever comes between; the edge of a task."""
        publication = Publication(self._line, taken, self.name)
        counters, since_ns = self.counters, time.monotonic_ns()
        begun_ns, outcome = time.time_ns(), "broken"
        try:
            await self._answer_in_time(taken, publication)
        except NotOurs:
            counters.withdrawn += 1
            outcome = "dropped"
            log.debug("task dropped", task=taken.order.key)
        except asyncio.CancelledError:  # this process stops
            counters.given_back += 1
            outcome = "given-back"
            await asyncio.shield(self._give_back(taken))
            raise
        except Exception as wrong:  # the edge of a task: the others go on
            counters.broken += 1
            log.error("task broken", task=taken.order.key, exc_info=wrong)
            await self._fail(publication, "the worker failed on this task")
        else:
            outcome = publication.state
        finally:
            self._trace(taken, publication, begun_ns, outcome)
        self.finished += 1
        self.task_time.observe((time.monotonic_ns() - since_ns) // 1_000)

    def _trace(self, taken: Taken, publication: Publication, begun_ns: int, outcome: str) -> None:
        task = parse(taken.order.traceparent) if self._traced is not None else None
        if self._traced is None or task is None or not task.is_sampled:
            return
        told: dict[str, Value] = {
            "microturn.call": taken.order.call, "microturn.task": taken.order.task,
            "microturn.attempt": taken.attempt, "microturn.outcome": outcome,
            "microturn.pieces": publication.pieces,
        }  # fmt: skip
        context = task.below(f"work {taken.attempt} {self.name}")
        error = "" if outcome in ("done", "dropped", "given-back") else outcome
        self._traced(Span("work", context, task, begun_ns, time.time_ns(), told, "consumer", error, True))

    async def _answer_in_time(self, taken: Taken, publication: Publication) -> None:
        try:
            async with asyncio.timeout(taken.left_ms / 1e3):
                await self._while_ours(taken, self._answer(taken, publication))
            self.counters.done += 1
        except TimeoutError:
            self.counters.timed_out += 1
            await self._fail(publication, "out of time")
        except NoAnswer as wrong:
            self.counters.failed += 1
            await self._fail(publication, str(wrong))

    async def _while_ours(self, taken: Taken, work: Awaitable[None]) -> None:
        working, renewing = asyncio.ensure_future(work), asyncio.create_task(self._renew(taken))
        try:
            await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise NotOurs
            working.result()
        finally:
            working.cancel()
            renewing.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)

    async def _renew(self, taken: Taken) -> None:
        """Returns when it is not ours any more."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                if not await self._line.renew(taken, self.name):
                    return
            except Away:
                pass

    async def _answer(self, taken: Taken, publication: Publication) -> None:
        pieces = Pieces()
        async for step in until_due(self._answerer.answer(taken.order, taken.said), pieces):
            if step is None:
                await publication.say(pieces.due())
            elif isinstance(step, Doing):
                await publication.say(pieces.rest())
                await publication.tell("running", note=step.note)
            else:
                for piece in pieces.add(step.text):
                    await publication.say(piece)
            if publication.pieces >= MOST_PIECES - 1:
                await publication.tell("done", note="cut: the result is too long")
                return
        rest = pieces.rest()
        if not publication.has_words and not rest.strip():
            raise NoAnswer("an empty answer")
        await publication.tell("done", rest)

    async def _fail(self, publication: Publication, note: str) -> None:
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await publication.tell("failed", note=note)
        except (TimeoutError, NotOurs):
            log.info("failure of a task not told", task=publication.task, reason=note)

    async def _give_back(self, taken: Taken) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._line.give_back(taken, self.name)
        except (Away, TimeoutError):
            log.debug("task not given back", task=taken.order.key)


class Publication:
    """What one attempt says of its task, in order; each piece once, however often it has to be sent."""

    def __init__(self, line: TaskLine, taken: Taken, worker: str) -> None:
        self.task = taken.order.key
        self.said_bytes = len(taken.said.encode())
        self.has_words = bool(taken.said.strip())
        self.pieces = 0
        self.state: State = "running"
        """The newest that was told."""
        self._line, self._taken, self._worker = line, taken, worker

    async def say(self, text: str) -> None:
        """A piece of the result, if there is any."""
        if text:
            self.pieces += 1
            await self.tell("running", text)

    async def tell(self, state: State, text: str = "", note: str = "") -> None:
        """Waits for Redis; raises `NotOurs`."""
        note = cut_text(note, MOST_NOTE_BYTES)

        async def publish() -> bool:
            return await self._line.publish(self._taken, self._worker, state, text, note, self.said_bytes)

        if not await patiently(publish):
            raise NotOurs
        self.state = state
        self.said_bytes += len(text.encode())
        self.has_words = self.has_words or bool(text.strip())


async def patiently(ask: Callable[[], Awaitable[R]]) -> R:
    """Again and again until somebody answers; the task's deadline ends it."""
    pause_s = 0.05
    while True:
        try:
            return await ask()
        except Away:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)


async def until_due(steps: AsyncIterator[Step], pieces: Pieces) -> AsyncIterator[Step | None]:
    """The steps as they come, and None when words have waited long enough."""
    queue: asyncio.Queue[Step | BaseException | None] = asyncio.Queue(
        maxsize=64
    )  # full: whoever answers waits

    async def produce() -> None:
        try:
            async for step in steps:
                await queue.put(step)
        except Exception as wrong:
            await queue.put(wrong)
        else:
            await queue.put(None)

    producing = asyncio.create_task(produce())
    try:
        while True:
            try:
                async with asyncio.timeout(pieces.waits_s):
                    step = await queue.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(step, BaseException):
                raise step
            if step is None:
                return
            yield step
    finally:
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)


class Purse:
    """`agent.Meter`, in Redis, where all workers see what a call has cost."""

    def __init__(self, line: TaskLine, settings: GatewaySettings) -> None:
        self._line = line
        self._prices = settings.background_price_in, settings.background_price_out
        self._most_tokens = settings.background_tokens_per_call
        self._most_money = round(1e6 * settings.background_spend_per_call)

    async def reserve(self, call: str, tokens_in: int, tokens_out: int) -> bool:
        """See `Meter`."""
        tokens, money = tokens_in + tokens_out, self._money(tokens_in, tokens_out)
        return await patiently(
            lambda: self._line.reserve(call, tokens, money, self._most_tokens, self._most_money)
        )

    async def correct(self, call: str, tokens_in: int, tokens_out: int) -> None:
        """See `Meter`; without a cap, which was looked at before."""
        try:
            await self._line.reserve(call, tokens_in + tokens_out, self._money(tokens_in, tokens_out), 0, 0)
        except Away:
            log.debug("what a call has cost is not corrected")

    def _money(self, tokens_in: int, tokens_out: int) -> int:
        """In millionths: prices are of a million tokens."""
        return round(tokens_in * self._prices[0] + tokens_out * self._prices[1])


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """One worker until `stop`. `ValueError` for an operator's mistake."""
    address = settings.state_address
    if address is None:
        raise ValueError(
            f"redis = {settings.redis!r}: a background worker takes its tasks from there; name the server of the "
            "gateways (redis://HOST:PORT/DB, ...)"
        )
    line = task_line(settings, address)
    servers = [
        McpServer(n, place, settings.background_tool_s) for n, place in settings.background_mcp.items()
    ]
    keeping = [asyncio.create_task(server.run()) for server in servers]
    try:
        async with asyncio.timeout(MEET_S):
            for server in servers:
                await server.met.wait()
    except TimeoutError:
        log.warning("MCP servers that do not answer are left out")
    threads = Threads()
    exporter = _exporter(settings)
    put = exporter.put if exporter is not None else None
    answerer = make_answerer(settings, line, servers, threads)
    worker = Worker(line, answerer, settings.background_tasks, traced=put)
    try:
        with _metrics(settings, threads, worker, exporter):
            await worker.run(stop)
    finally:
        if threads.counters.left:
            log.warning("tools that hung", still=threads.left, **dataclasses.asdict(threads.counters))
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        if exporter is not None:
            await asyncio.to_thread(exporter.close)


def _metrics(
    settings: GatewaySettings, threads: Threads, worker: Worker, exporter: Exporter | None
) -> contextlib.AbstractContextManager[None]:
    if not settings.background_metrics_port:
        return contextlib.nullcontext()
    from gateway.metrics import Metrics

    metrics = Metrics(of_gateway=False)
    metrics.parts = {"worker": worker.counters, "tools": threads.counters}
    if exporter is not None:
        metrics.parts["traces"] = exporter.counters
    metrics.histograms = (worker.task_time,)

    def look() -> None:
        metrics.gauges = worker.gauges()

    metrics.ask = look
    return metrics.served(settings.http_host, settings.background_metrics_port)


def _exporter(settings: GatewaySettings) -> Exporter | None:
    """None where no collector is set: then nothing of it is loaded."""
    if not settings.traces_endpoint:
        return None
    from gateway.tracing.export import Exporter

    return Exporter(settings.traces_endpoint, "microturn-worker", settings.node_name)


def make_answerer(
    settings: GatewaySettings, line: TaskLine, servers: list[McpServer], threads: Threads
) -> Answerer:
    """A model with tools where an endpoint is set, else fixed rules over the small ones."""
    orders = Orders(settings.background_orders)
    if not settings.background_url:
        log.info("no model is set: a few tools answer by fixed rules", tools="calculator, clock, orders")
        return Router(orders, threads)
    tools = [of_function(function, threads) for function in (calculate, clock, orders.look_up_order)]
    tools += load(settings.background_tools, threads) + [tool for server in servers for tool in server.tools]
    key = settings.background_key.get_secret_value()
    chat = Chat(settings.background_url, key, settings.background_model, settings.background_answer_s)
    return Agent(
        chat, Toolbox(tools, settings.background_tool_s), Purse(line, settings),
        tries=settings.background_tries, answer_tokens=settings.background_answer_tokens,
        eyes=Eyes(line, settings.background_stills) if settings.background_stills else None,
    )  # fmt: skip


def run(settings: GatewaySettings) -> int:
    """The process; the exit status is 0 after a clean stop."""
    import uvloop

    sys.path.insert(0, os.getcwd())  # background_tools: modules beside microturn.toml

    async def main() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await serve(settings, stop)

    uvloop.run(main())
    return 0
