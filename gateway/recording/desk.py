"""What others of the main process may ask of recordings: to begin, to end, to leave silence from now on.

    desk.pause(call) -> `control.Record` -> worker -> `control.RecordDone`
    worker, whoever asked: `control.RecordingTold` -> `RecordingEvent`, in order, to everyone in `watchers`

It knows the calls that may be recorded (a rule says so, `recording_dir` is set), and no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from gateway import control
from gateway.control import RecordWhat
from gateway.fleet import Kind

ANSWER_S: Final = 5.0
"""A worker says within milliseconds whether it does what it was asked."""
MOST_OUT: Final = 256
"""Requests out to workers at once; more are refused."""

State = Literal["off", "on", "paused"]
Send = Callable[[bytes], object]


class Refused(Exception):
    """It is not done. `status` is HTTP's for it: 403 it may not be recorded, 404 no call of that name that may be
    recorded, 409 not now (as `resume` without `pause`), 503 or 504 its worker does not answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recording of a call as it is now."""

    call: str
    """As everywhere outside of this process: a browser call's name, `state.keys.name_of_telephone_call`."""
    state: State = "off"
    file: str = ""
    """Name of the newest recording, without its folder and ending."""


@dataclass(frozen=True, slots=True)
class RecordingEvent:
    """What became of a recording, whoever asked for it."""

    call: str
    kind: Literal["began", "paused", "resumed", "ended"]
    file: str
    at_ms: int
    """Place in that file."""
    by: Literal["rule", "api", "model", "end"]
    """The rule, a request of ours, the model, or the end of the call."""


@dataclass(slots=True)
class _Known:
    worker: str
    call_id: str
    """The worker's name for it."""
    recorded: Recorded


class RecordingDesk:
    """Of one main process."""

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self.watchers: list[Callable[[RecordingEvent], None]] = []
        self.announced: list[Callable[[str, bool, bool], None]] = []
        """Told of each call whose caller has heard our announcements: its name, disclosure, consent."""
        self._answer_s = answer_s
        self._known: dict[str, _Known] = {}
        self._sends: dict[str, Send] = {}
        self._out: dict[int, tuple[str, asyncio.Future[control.RecordDone]]] = {}
        self._last_id = 0

    # -- what may be asked

    async def start(self, call: str) -> None:
        """Record from now on. Raises `Refused`."""
        await self._ask(call, "start")

    async def stop(self, call: str) -> None:
        """Record no more; what is recorded is kept. Raises `Refused`."""
        await self._ask(call, "stop")

    async def pause(self, call: str) -> None:
        """Leave silence, of both sides, until `resume`. Raises `Refused`."""
        await self._ask(call, "pause")

    async def resume(self, call: str) -> None:
        """Go on after `pause`. Raises `Refused`."""
        await self._ask(call, "resume")

    def find(self, call: str) -> Recorded | None:
        """None of a call that may not be recorded, or that does not live here."""
        known = self._known.get(call)
        return known.recorded if known is not None else None

    # -- of the workers

    def door(self, inner: Kind, name_of: Callable[[str], str] = str) -> RecordingDoor:
        """Around a kind of worker, whose calls are known outside by `name_of` their names."""
        return RecordingDoor(inner, self, name_of)

    def came(self, worker: str, send: Send) -> None:
        """It takes requests."""
        self._sends[worker] = send

    def hear(self, worker: str, name: str, message: control.RecordingMessage) -> None:
        """What it says; `name` is the call's outside."""
        match message:
            case control.RecordDone():
                asked = self._out.get(message.id)
                if asked is not None and not asked[1].done():
                    asked[1].set_result(message)
            case control.RecordingTold():
                self._told(worker, name, message)
            case control.Announced():
                for watcher in self.announced:
                    watcher(name, message.disclosure, message.consent)

    def over(self, name: str) -> None:
        """The call has ended."""
        self._known.pop(name, None)

    def lose(self, worker: str) -> None:
        """It is gone, with its calls; who waits for its answer gets one."""
        self._sends.pop(worker, None)
        for name in [name for name, known in self._known.items() if known.worker == worker]:
            del self._known[name]
        for its, future in self._out.values():
            if its == worker and not future.done():
                future.set_result(control.RecordDone(0, 503, "its worker is gone"))

    # -- inside

    def _told(self, worker: str, name: str, told: control.RecordingTold) -> None:
        known = self._known.setdefault(name, _Known(worker, told.call_id, Recorded(name)))
        known.worker, known.call_id = worker, told.call_id
        if told.kind == "allowed":
            return
        state: State = {"began": "on", "resumed": "on", "paused": "paused", "ended": "off"}[told.kind]  # type: ignore[assignment]
        known.recorded = replace(known.recorded, state=state, file=told.file)
        event = RecordingEvent(name, told.kind, told.file, told.at_ms, told.by)
        for watcher in self.watchers:
            watcher(event)

    async def _ask(self, call: str, what: RecordWhat) -> None:
        known = self._known.get(call)
        if known is None:
            raise Refused(404, "no call of that name that may be recorded lives here")
        send = self._sends.get(known.worker)
        if send is None or len(self._out) >= MOST_OUT:
            raise Refused(503, "its worker is away, or has too much to do")
        self._last_id += 1
        number = self._last_id
        future: asyncio.Future[control.RecordDone] = asyncio.get_running_loop().create_future()
        self._out[number] = known.worker, future
        try:
            send(control.encode(control.Record(number, known.call_id, what)))
            async with asyncio.timeout(self._answer_s):
                done = await future
        except (TimeoutError, OSError):
            raise Refused(504, "its worker does not answer") from None
        finally:
            del self._out[number]
        if done.status != 200:
            raise Refused(done.status, done.reason)


class RecordingDoor:
    """A `gateway.fleet.Kind`: what workers say of recordings is the desk's, all else is passed on."""

    def __init__(self, inner: Kind, desk: RecordingDesk, name_of: Callable[[str], str]) -> None:
        self._inner, self._desk, self._name_of = inner, desk, name_of

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: Send) -> int:
        """See `Kind`."""
        self._desk.came(ready.worker, send)
        return self._inner.welcome(ready, send)

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """See `Kind`."""
        if isinstance(message, control.RecordDone):
            self._desk.hear(worker, "", message)
        elif isinstance(message, control.RecordingTold | control.Announced):
            self._desk.hear(worker, self._name_of(message.call_id), message)
        else:
            self._inner.hear(worker, message)
            if isinstance(message, control.CallEnded):
                self._desk.over(self._name_of(message.call_id))

    def lose(self, worker: str) -> int:
        """See `Kind`."""
        self._desk.lose(worker)
        return self._inner.lose(worker)
