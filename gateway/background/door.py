"""A kind of worker, seen by the desk: tasks and transcripts of its calls are dealt with here, all else goes on.

A task's call is named as in Redis (`gateway/state/keys.py`), in a worker as its carrier names it: a Call-ID, which
is a peer's, goes nowhere beyond this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from gateway import control
from gateway.background.records import CUT, MOST_REQUEST_BYTES, News, Order, State, Still
from gateway.fleet import Kind
from gateway.state import records

if TYPE_CHECKING:  # redis-py takes 0.15 s to load
    from gateway.background.desk import Desk, Open
    from gateway.state.sessions import Sessions

log = structlog.get_logger()

Ready = control.Ready | control.WebrtcReady
Send = Callable[[bytes], object]
MOST_TEXT_BYTES: Final = 400
"""Of a line in Redis, as JSON: a longer one goes in pieces."""
MOST_RESULT_BYTES: Final = 8_192
"""Of what came of a task, as JSON; longer ones end with `CUT`."""
MOST_REQUEST_JSON_BYTES: Final = 6 * MOST_REQUEST_BYTES + 2
"""However much of it has to be escaped."""


class TaskDoor:
    """Wraps a `gateway.fleet.Kind`. Without a desk every task fails at once, without sessions no line is kept."""

    def __init__(
        self, inner: Kind, name_of: Callable[[str], str], sessions: Sessions | None, node: str
    ) -> None:
        self.desk: Desk | None = None
        self.context_of: Callable[[str, str], str] = lambda call, task: ""
        """W3C trace context of a task, by its call and its name there."""
        self._inner, self._name_of, self._sessions, self._node = inner, name_of, sessions, node
        self._sends: dict[str, Send] = {}
        self._calls: dict[str, tuple[str, str]] = {}
        """Name in Redis -> worker, name in it. Of calls with tasks and of calls that live on."""

    def welcome(self, ready: Ready, send: Send) -> int:
        """See `Kind`."""
        count = self._inner.welcome(ready, send)
        self._sends[ready.worker] = send
        for call in ready.calls:
            self._calls[self._name_of(call)] = (ready.worker, call)
        return count

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """See `Kind`."""
        if isinstance(message, control.Said):
            self._said(message)
        elif isinstance(message, control.Delegated):
            self._delegated(worker, message)
        elif isinstance(message, control.Withdrawn):
            self._withdrawn(self._name_of(message.call), message.task)
        elif isinstance(message, control.Still):
            self._showed(message)
        else:
            self._inner.hear(worker, message)
            if isinstance(message, control.CallEnded):
                self._ended(self._name_of(message.call_id))

    def lose(self, worker: str) -> int:
        """See `Kind`."""
        self._sends.pop(worker, None)
        for name in [name for name, (place, _) in self._calls.items() if place == worker]:
            self._withdrawn(name)
        return self._inner.lose(worker)

    def deliver(self, news: News) -> bool:
        """To the worker of its call; False when that is none of this door's."""
        place = self._calls.get(news.call)
        if place is None:
            return False
        worker, call = place
        if news.still:
            self._tell(worker, control.Look(call, news.task, news.still))
            return True
        told = control.TaskNews(call, news.task, news.state, news.number, news.text, news.note)
        self._tell(worker, told)
        return True

    # -- inside

    def _said(self, message: control.Said) -> None:
        if self._sessions is None:
            return
        name = self._name_of(message.call)
        for line in message.lines:
            for piece, text in enumerate(pieces_as_json(line.text, MOST_TEXT_BYTES)):
                self._sessions.said(
                    name, records.Line(line.turn, line.speaker, text, line.played_samples, piece)
                )

    def _delegated(self, worker: str, message: control.Delegated) -> None:
        name = self._name_of(message.call)
        if self.desk is None:
            told = control.TaskNews(message.call, message.task, "failed", note="no background worker here")
            self._tell(worker, told)
            return
        self._calls[name] = (worker, message.call)
        order = Order(
            key=f"{name}.{message.task}", call=name, task=message.task, node=self._node, turn=message.turn,
            request=message.request, lines=message.lines, reads=message.reads,
            camera=message.camera, traceparent=self.context_of(name, message.task),
        )  # fmt: skip
        state, note, left_ms = self.desk.ask(order)
        self._tell(worker, control.TaskNews(message.call, message.task, state, note=note, left_ms=left_ms))

    def _showed(self, message: control.Still) -> None:
        if self.desk is not None:
            key = f"{self._name_of(message.call)}.{message.task}"
            self.desk.show(key, Still(message.number, message.jpeg, message.reason))

    def _withdrawn(self, name: str, task: str = "") -> None:
        if self.desk is not None:
            self.desk.withdraw(name, task)
        if not task:
            self._calls.pop(name, None)

    def _ended(self, name: str) -> None:
        """One whose caller was transferred goes on with its tasks, under its old name."""
        if self.desk is None or not self.desk.has_tasks(name):
            self._calls.pop(name, None)

    def _tell(self, worker: str, news: control.TaskNews | control.Look) -> None:
        send = self._sends.get(worker)
        try:
            if send is not None:
                send(control.encode(news))
        except OSError as wrong:  # it does not keep up: its deadline tells the call
            log.warning("news of a task not told", worker=worker, reason=str(wrong))


def keep_in(sessions: Sessions, node: str) -> Callable[[Open, State, str], None]:
    """Each task as a record of its call's state."""

    def note(task: Open, state: State, result: str) -> None:
        order = task.order
        if order.call in sessions:
            record = records.Task(
                order.key, state, order.turn, time.time_ns() // 1_000_000 + task.left_ms,
                cut_as_json(order.request, MOST_REQUEST_JSON_BYTES), cut_as_json(result, MOST_RESULT_BYTES), node,
            )  # fmt: skip
            sessions.note_task(order.call, record)

    return note


def cut_as_json(text: str, most_bytes: int) -> str:
    """As it is, or its beginning and `CUT`, in so many bytes as JSON."""
    if len(msgspec.json.encode(text)) <= most_bytes:
        return text
    return text[: _fitting(text, most_bytes - len(CUT))] + CUT


def pieces_as_json(text: str, most_bytes: int) -> list[str]:
    """All of it, cut at blanks where there are any, each piece in so many bytes as JSON; the blanks go."""
    pieces = []
    while len(msgspec.json.encode(text)) > most_bytes:
        most = _fitting(text, most_bytes)
        end = max(text.rfind(" ", 0, most + 1), text.rfind("\n", 0, most + 1))
        at, rest = (end, end + 1) if end > 0 else (most, most)
        pieces.append(text[:at])
        text = text[rest:]
    return [*pieces, text] if text or not pieces else pieces


def _fitting(text: str, most_bytes: int) -> int:
    """How many letters fit, as JSON with its quotes."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(msgspec.json.encode(text[:middle])) <= most_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
