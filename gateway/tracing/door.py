"""A kind of worker, seen by the traces: what it noted of a call that is over is taken on its way past."""

from __future__ import annotations

from collections.abc import Callable

from gateway import control
from gateway.fleet import Kind
from gateway.tracing.calls import CallTraces


class TraceDoor:
    """Wraps a `gateway.fleet.Kind`; `name_of` gives the name that a call is kept under."""

    def __init__(self, inner: Kind, traces: CallTraces, name_of: Callable[[str], str]) -> None:
        self._inner, self._traces, self._name_of = inner, traces, name_of

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: Callable[[bytes], object]) -> int:
        """See `Kind`."""
        return self._inner.welcome(ready, send)

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """See `Kind`."""
        if isinstance(message, control.CallEnded) and message.notes is not None:
            self._traces.noted(self._name_of(message.call_id), message.notes)
        self._inner.hear(worker, message)

    def lose(self, worker: str) -> int:
        """See `Kind`."""
        return self._inner.lose(worker)
