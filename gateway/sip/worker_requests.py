"""Requests of the main process that SIP workers have not answered yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway import control
from gateway.sip.outbound import Refused

ANSWER_S: Final = 5.0
"""A worker says within milliseconds whether it does what it was asked."""
MOST_OUT: Final = 256
"""Requests out to workers at once; more are refused."""
Done = Callable[[control.Answered], None]


@dataclass(frozen=True, slots=True)
class _Out:
    worker: str
    future: asyncio.Future[control.Answered]
    done: Done


class WorkerRequests:
    """Of one main process. `send` gives what sends to a worker, None when it is away."""

    def __init__(
        self, send: Callable[[str], Callable[[bytes], object] | None], answer_s: float = ANSWER_S
    ) -> None:
        self._send, self._answer_s = send, answer_s
        self._out: dict[int, _Out] = {}
        self._last_id = 0

    async def ask(
        self, worker: str, message: control.SipRequest, done: Done = lambda answered: None
    ) -> control.Answered:
        """Its answer that it does so; `done` gets it before the worker's next message is read. Raises `Refused`."""
        send = self._send(worker)
        if send is None or len(self._out) >= MOST_OUT:
            raise Refused(503, "not-ready", "its worker is away, or has too much to do")
        self._last_id += 1
        number = self._last_id
        out = self._out[number] = _Out(worker, asyncio.get_running_loop().create_future(), done)
        try:
            send(control.encode(msgspec.structs.replace(message, id=number)))
            async with asyncio.timeout(self._answer_s):
                answered = await out.future
        except (TimeoutError, OSError):
            raise Refused(504, "no-answer", "its worker does not answer") from None
        finally:
            del self._out[number]
        if answered.status != 200:
            code = "no-room" if answered.status == 503 else "refused"
            raise Refused(answered.status, code, answered.reason)
        return answered

    def answered(self, answered: control.Answered) -> None:
        """A worker answers; nobody may wait for it any more."""
        out = self._out.get(answered.id)
        if out is None or out.future.done():
            return
        if answered.status == 200:
            out.done(answered)
        out.future.set_result(answered)

    def lose(self, worker: str) -> None:
        """It is gone; who waits for its answer gets one."""
        for out in self._out.values():
            if out.worker == worker and not out.future.done():
                out.future.set_result(control.Answered(0, 503, reason="its worker is gone"))
