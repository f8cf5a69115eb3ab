"""The way of a command to a live call: from the main process to the worker that has it, and back what became of it.

It wraps the doors of both kinds of worker. It is asked by the interface for programs (`gateway/api/v1/`), and knows
calls by the names that they are kept under.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway import control
from gateway.fleet import Kind

log = structlog.get_logger()

ANSWER_S: Final = 2.0
"""A worker answers within a turn; one that takes so long is stuck."""
MOST_OUT: Final = 256
"""Commands that wait for their answers; more are refused."""

PlaceOf = Callable[[str], tuple[str, str] | None]
"""A call's worker, and its name there; None when it does not live here."""
Send = Callable[[bytes], object]


@dataclass(slots=True)
class IntercomCounters:
    """Since the start of this process."""

    commands: int = 0
    obeyed: int = 0
    refused: int = 0
    unanswered: int = 0


class Intercom:
    """Of one main process."""

    def __init__(self, place_of: PlaceOf, answer_s: float = ANSWER_S) -> None:
        self.counters = IntercomCounters()
        self._place_of, self._answer_s = place_of, answer_s
        self._sends: dict[str, Send] = {}
        self._out: dict[int, tuple[str, asyncio.Future[control.Done]]] = {}
        self._last = 0

    def door(self, inner: Kind) -> Kind:
        """Around that kind of worker."""
        return _Door(inner, self)

    async def tell(self, call: str, do: control.Do, value: str = "") -> control.Done:
        """What became of it: as the worker says, or 404 gone, 503 its worker is away, 504 it does not answer."""
        place = self._place_of(call)
        if place is not None:
            return await self.tell_worker(*place, do, value)
        self.counters.commands += 1
        self.counters.refused += 1
        return control.Done(0, 404, "gone", "the call is over")

    async def tell_worker(self, worker: str, inside: str, do: control.Do, value: str = "") -> control.Done:
        """The same, to a call whose worker and name there are known."""
        self.counters.commands += 1
        done = await self._tell(worker, inside, do, value)
        self.counters.obeyed += done.status < 400
        self.counters.refused += done.status >= 400
        return done

    async def _tell(self, worker: str, inside: str, do: control.Do, value: str) -> control.Done:
        send = self._sends.get(worker)
        if send is None or len(self._out) >= MOST_OUT:
            return control.Done(
                0, 503, "not-ready", "the process with this call is away, or does not keep up"
            )
        self._last = number = self._last + 1
        answer: asyncio.Future[control.Done] = asyncio.get_running_loop().create_future()
        self._out[number] = worker, answer
        try:
            send(control.encode(control.Command(number, inside, do, value)))
            return await asyncio.wait_for(answer, self._answer_s)
        except TimeoutError:
            self.counters.unanswered += 1
            log.error("worker does not answer", worker=worker, command=do)
            return control.Done(0, 504, "no-answer", "the process with this call does not answer")
        except OSError as wrong:
            told = f"the process with this call cannot be asked: {wrong.strerror}"
            return control.Done(0, 503, "not-ready", told)
        finally:
            del self._out[number]

    # -- what the doors say

    def joined(self, worker: str, send: Send) -> None:
        """It takes commands."""
        self._sends[worker] = send

    def left(self, worker: str) -> None:
        """It is gone; who waits for its answer gets one."""
        self._sends.pop(worker, None)
        for its, answer in self._out.values():
            if its == worker and not answer.done():
                answer.set_result(control.Done(0, 503, "not-ready", "the process with this call is gone"))

    def done(self, done: control.Done) -> None:
        """One that nobody waits for any more is nothing."""
        _, answer = self._out.get(done.id, ("", None))
        if answer is not None and not answer.done():
            answer.set_result(done)


class _Door:
    """See `Kind`."""

    def __init__(self, inner: Kind, intercom: Intercom) -> None:
        self._inner, self._intercom = inner, intercom

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: Send) -> int:
        count = self._inner.welcome(ready, send)
        self._intercom.joined(ready.worker, send)
        return count

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        if isinstance(message, control.Done):
            self._intercom.done(message)
        else:
            self._inner.hear(worker, message)

    def lose(self, worker: str) -> int:
        self._intercom.left(worker)
        return self._inner.lose(worker)
