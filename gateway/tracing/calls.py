"""What happens in the calls of one main process, put together as spans.

    call                     from its INVITE or offer (of ours: from the dialling) to its end
      set-up                 until media flowed
      turn missed, turn late the first `MOST_NOTES` of a call, as its worker has noted them; figures count all
      task                   from the model's asking to its end; below it `work`, of whoever worked at it
      transfer, person       a caller who is handed on; somebody who has joined

Belongs to one event loop; Unix ns are an argument. `events` and `sessions.Watcher` tell it, it tells a sink.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.control import CallNotes
from gateway.sip.call_events import CallEvent
from gateway.state.records import Cdr, Figures, Line, Session, Task
from gateway.tracing.spans import Context, Sink, Span, Value, of_call, parse

MOST_COMING: Final = 4_096
"""Calls that are not answered yet; the oldest is forgotten."""
MOST_OPEN: Final = 64
"""Parts of one call that are under way."""
MS: Final = 1_000_000
FIGURES: Final = (
    "turns", "missed_turns", "late_turns", "concealed_ms", "interruptions", "cuts", "packets", "lost_packets",
    "loss", "jitter_ms", "delay_ms", "round_trip_ms", "mos", "tasks", "engine_ms",
)  # fmt: skip
ENDINGS: Final = {"transferred": "transfer", "transfer-failed": "transfer", "left": "person"}
ERRORS: Final = ("worker-lost", "lost")


@dataclass(slots=True)
class _Traced:
    context: Context
    asked: Context | None
    begun_ns: int
    answered_ns: int = 0
    notes: CallNotes | None = None
    open: dict[str, tuple[int, dict[str, Value]]] = field(default_factory=dict)
    """Begin and attributes of what is under way in it, by kind or task."""
    left_out: int = 0
    """Parts that had no room in `open`."""


class CallTraces:
    """`state.sessions.Watcher`. `now_ns` is the wall clock."""

    def __init__(self, sink: Sink, now_ns: Callable[[], int]) -> None:
        self._sink, self._now_ns = sink, now_ns
        self._coming: OrderedDict[str, _Traced] = OrderedDict()
        self._live: dict[str, _Traced] = {}

    # -- on its way

    def arrived(self, call: str, traceparent: str = "") -> None:
        """Somebody calls, or is called."""
        asked = parse(traceparent)
        self._coming.setdefault(call, _Traced(of_call(call, asked), asked, self._now_ns()))
        if len(self._coming) > MOST_COMING:
            self._coming.popitem(last=False)

    def context_of_task(self, call: str, task: str) -> str:
        """A `traceparent` for whoever works at it; "" for a call that nobody traces."""
        traced = self._live.get(call)
        if traced is None or not traced.context.is_sampled:
            return ""
        return traced.context.below(f"task {task}").traceparent

    # -- what the sessions tell

    def began(self, session: Session) -> None:
        """See `Watcher`: answered here, or known again after a restart."""
        traced = self._coming.pop(session.call, None)
        if traced is None:  # known again: when it arrived is not
            traced = _Traced(of_call(session.call, None), None, session.began_ms * MS)
        else:
            traced.answered_ns = max(session.began_ms * MS, traced.begun_ns)
        self._live[session.call] = traced

    def took(self, session: Session) -> None:
        """See `Watcher`: its trace goes on, since its name is the same."""
        self.began(session)

    def gave_back(self, call: str) -> None:
        """See `Watcher`."""
        self._live.pop(call, None)

    def said(self, session: Session, line: Line) -> None:
        """See `Watcher`; words are nobody's business here."""

    def task(self, session: Session, task: Task) -> None:
        """See `Watcher`."""
        traced = self._live.get(session.call)
        if traced is None:
            return
        name = task.key.removeprefix(f"{session.call}.")
        if task.state == "asked":
            told: dict[str, Value] = {"microturn.task": name, "microturn.turn": task.asked_turn}
            self._begin(traced, f"task {name}", told)
        elif task.state != "running":
            self._close(session.call, traced, f"task {name}", task.state, task.state == "failed")

    def over(self, session: Session, cdr: Cdr) -> None:
        """See `Watcher`."""
        traced = self._live.pop(session.call, None)
        if traced is None:
            return
        ended_ns = cdr.ended_ms * MS
        for name in list(traced.open):
            self._close(session.call, traced, name, "open", False)
        told: dict[str, Value] = {
            "microturn.door": cdr.door, "microturn.node": cdr.node, "microturn.reason": cdr.reason,
            "microturn.legs": cdr.legs, "microturn.placed": cdr.placed,
        }  # fmt: skip
        told |= {"microturn.tenant": cdr.tenant} if cdr.tenant else {}
        told |= {"microturn.trunk": cdr.trunk} if cdr.trunk else {}
        told |= {"microturn.engine": cdr.engine} if cdr.engine else {}
        told |= {"microturn.cause": cdr.cause} if cdr.cause else {}
        told |= {"microturn.joined": cdr.joined} if cdr.joined else {}
        told |= {"microturn.not_shown": traced.left_out} if traced.left_out else {}
        self._set_up(session.call, traced, ended_ns)
        self._turns(session.call, traced, cdr.figures)
        error = cdr.reason if cdr.reason in ERRORS else "error" if cdr.cause == "error" else ""
        self._call(session.call, traced, ended_ns, told | _figures(cdr.figures), error)

    # -- what others tell

    def noted(self, call: str, notes: CallNotes) -> None:
        """Its worker, just before it says that the call is over."""
        if (traced := self._live.get(call)) is not None:
            traced.notes = notes

    def heard(self, event: CallEvent) -> None:
        """The switchboard: of a call that we make, of a caller who is handed on, of a person who joins."""
        if event.kind == "failed":
            self._unanswered(event)
            return
        traced = self._live.get(event.call)
        if traced is None:
            return
        if event.kind in ("transferring", "joined"):
            told: dict[str, Value] = {"microturn.target": event.target} if event.target else {}
            told |= {"microturn.person": event.person} if event.person else {}
            self._begin(traced, "transfer" if event.kind == "transferring" else "person", told)
        elif event.kind == "join-failed":
            self._begin(traced, "person", {})
            self._close(event.call, traced, "person", event.why or "failed", True)
        elif event.kind in ENDINGS:
            failed = event.kind == "transfer-failed"
            self._close(event.call, traced, ENDINGS[event.kind], event.why or event.kind, failed)

    # -- inside

    def _begin(self, traced: _Traced, name: str, told: dict[str, Value]) -> None:
        if len(traced.open) >= MOST_OPEN and name not in traced.open:
            traced.left_out += 1
            return
        traced.open.setdefault(name, (self._now_ns(), told))

    def _close(self, call: str, traced: _Traced, name: str, outcome: str, failed: bool) -> None:
        begun = traced.open.pop(name, None)
        if begun is None:
            return
        begun_ns, told = begun
        context = traced.context.below(name if name.startswith("task ") else f"{name} {begun_ns}")
        told |= {"microturn.call": call, "microturn.outcome": outcome}
        error = outcome if failed else ""
        self._put(traced, name.partition(" ")[0], context, begun_ns, self._now_ns(), told, error)

    def _set_up(self, call: str, traced: _Traced, ended_ns: int) -> None:
        if not traced.answered_ns:
            return
        media_ns = traced.notes.media_ms * MS if traced.notes is not None else 0
        told: dict[str, Value] = {"microturn.call": call, "microturn.media": media_ns > 0}
        told["microturn.answered_ms"] = (traced.answered_ns - traced.begun_ns) // MS
        until_ns = min(max(media_ns, traced.answered_ns), ended_ns)
        self._put(traced, "set-up", traced.context.below("set-up"), traced.begun_ns, until_ns, told)

    def _turns(self, call: str, traced: _Traced, figures: Figures) -> None:
        for note in traced.notes.turns if traced.notes is not None else ():
            name = "turn late" if note.is_late else "turn missed"
            told: dict[str, Value] = {"microturn.call": call, "microturn.turn": note.turn}
            told["microturn.turns"] = note.missed
            context = traced.context.below(f"turn {note.turn}")
            begun_ns = note.at_ms * MS - note.missed * 200 * MS
            self._put(traced, name, context, begun_ns, note.at_ms * MS, told, "missed")

    def _call(self, call: str, traced: _Traced, ended_ns: int, told: dict[str, Value], error: str) -> None:
        if traced.context.is_sampled:
            told |= {"microturn.call": call}
            self._sink(
                Span("call", traced.context, traced.asked, traced.begun_ns, max(ended_ns, traced.begun_ns), told,
                     "server", error, parent_is_remote=traced.asked is not None)
            )  # fmt: skip

    def _unanswered(self, event: CallEvent) -> None:
        traced = self._coming.pop(event.call, None)
        if traced is not None:
            told: dict[str, Value] = {"microturn.placed": True, "microturn.status": event.status}
            why = event.why or "failed"
            self._call(event.call, traced, self._now_ns(), told | {"microturn.cause": why}, why)

    def _put(
        self, traced: _Traced, name: str, context: Context, begun_ns: int, ended_ns: int,
        told: dict[str, Value], error: str = "",
    ) -> None:  # fmt: skip
        if traced.context.is_sampled:
            self._sink(Span(name, context, traced.context, begun_ns, ended_ns, told, error=error))


def _figures(figures: Figures) -> dict[str, Value]:
    told: dict[str, Value] = {f"microturn.{name}": getattr(figures, name) for name in FIGURES}
    return {"microturn.codec": figures.codec} | told
