"""What the main process knows of recordings: which calls may be recorded, and are.

    worker, whoever asked: `control.RecordingTold` -> `RecordingEvent`, in order, to everyone in `watchers`

Workers name the calls that may be recorded (a rule says so, `recording_dir` is set), and no others. Who wants one
begun, ended or paused tells the call so (`gateway/intercom.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from gateway import control
from gateway.fleet import Kind

State = Literal["off", "on", "paused"]
Send = Callable[[bytes], object]
_AFTER: Final[dict[str, State]] = {"began": "on", "resumed": "on", "paused": "paused", "ended": "off"}


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


class RecordingDesk:
    """Of one main process."""

    def __init__(self) -> None:
        self.watchers: list[Callable[[RecordingEvent], None]] = []
        self.announced: list[Callable[[str, bool, bool], None]] = []
        """Told of each call whose caller has heard our announcements: its name, disclosure, consent."""
        self._known: dict[str, tuple[str, Recorded]] = {}  # with the worker that has it

    def find(self, call: str) -> Recorded | None:
        """None of a call that may not be recorded, or that does not live here."""
        known = self._known.get(call)
        return known[1] if known is not None else None

    def door(self, inner: Kind, name_of: Callable[[str], str] = str) -> RecordingDoor:
        """Around a kind of worker, whose calls are known outside by `name_of` their names."""
        return RecordingDoor(inner, self, name_of)

    # -- what the doors say

    def told(self, worker: str, name: str, told: control.RecordingTold) -> None:
        """`name` is the call's outside."""
        _, recorded = self._known.get(name, ("", Recorded(name)))
        if told.kind == "allowed":
            self._known[name] = worker, recorded
            return
        self._known[name] = worker, replace(recorded, state=_AFTER[told.kind], file=told.file)
        event = RecordingEvent(name, told.kind, told.file, told.at_ms, told.by)
        for watcher in self.watchers:
            watcher(event)

    def over(self, name: str) -> None:
        """The call has ended."""
        self._known.pop(name, None)

    def lose(self, worker: str) -> None:
        """It is gone, with its calls."""
        self._known = {name: known for name, known in self._known.items() if known[0] != worker}


class RecordingDoor:
    """A `gateway.fleet.Kind`: what workers say of recordings is the desk's, all else is passed on."""

    def __init__(self, inner: Kind, desk: RecordingDesk, name_of: Callable[[str], str]) -> None:
        self._inner, self._desk, self._name_of = inner, desk, name_of

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: Send) -> int:
        """See `Kind`."""
        return self._inner.welcome(ready, send)

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """See `Kind`."""
        match message:
            case control.RecordingTold():
                self._desk.told(worker, self._name_of(message.call_id), message)
            case control.Announced():
                for watcher in self._desk.announced:
                    watcher(self._name_of(message.call_id), message.disclosure, message.consent)
            case _:
                self._inner.hear(worker, message)
                if isinstance(message, control.CallEnded):
                    self._desk.over(self._name_of(message.call_id))

    def lose(self, worker: str) -> int:
        """See `Kind`."""
        self._desk.lose(worker)
        return self._inner.lose(worker)
