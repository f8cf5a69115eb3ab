"""frame -> packet of every call of a worker: 50 times a second each stream gets the next 20 ms for its ear.

One port of the conference bridge is called by its clock, in a native thread, and serves all streams; on the bridge
they hear and say nothing. A port for each call, as the library would have it, costs three times as much: SWIG, the
interpreter's lock and two vectors for each frame, and mixing.

The rule that keeps a push out of a stream that is gone: the clock pushes under `_lock`, and a stream leaves under
it, in the thread that owns the library, before that destroys it:

    BYE, re-INVITE, hold      the library calls `onStreamDestroyed` first: `SipCall` leaves there
    we hang up                the library does not call it: `SipCall` leaves before it hangs up
    the worker ends           `stop`, before the library is asked to hang up what is left

`leave` waits for a tick under way, 1 ms with 100 calls. Nothing that a push may wait for is held by someone who
waits for `_lock`: a push takes locks of its stream and of its transport, and never the library's own or a dialog's,
which is what the library holds when it calls back in the owner's thread. Should it destroy a stream untold all
the same, `Pjmedia.keep` has the memory stay as long as the stream is served, and its transport sends no more.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import pjsua2 as pj
import structlog

from gateway.sip.pj.stream import Stream
from media.timebase import FRAME_NS

log = structlog.get_logger()


class Ear:
    """What one caller hears, and when it was fetched: written by the clock, read by anyone."""

    __slots__ = ("first_pull_ns", "last_pull_ns", "pull", "pulls", "wrong")

    def __init__(self, pull: Callable[[], bytes]) -> None:
        self.pull = pull
        self.pulls = 0
        self.first_pull_ns = self.last_pull_ns = 0
        self.wrong: Exception | None = None
        """What went wrong in a tick, a bug of ours: the stream is served no more, and the call's owner ends it."""


class Metronome(pj.AudioMediaPort):  # type: ignore[misc]  # pjsua2 has no types
    """The streams of a worker, and whose ear is at each."""

    def __init__(self, rate_hz: int) -> None:
        """With the library started, in the thread that owns it. Lives as long as the process."""
        super().__init__()
        self._lock = threading.Lock()
        self._streams: dict[Stream, Ear | None] = {}
        self._before: tuple[Callable[[], None], ...] = ()
        self._is_pinned = False
        fmt = pj.MediaFormatAudio()
        fmt.type = pj.PJMEDIA_TYPE_AUDIO
        fmt.init(pj.PJMEDIA_FORMAT_PCM, rate_hz, 1, FRAME_NS // 1000, 16)
        self.createPort("metronome", fmt)

    @property
    def served(self) -> int:
        """Streams."""
        return len(self._streams)

    def serve(self, stream: Stream, ear: Ear | None) -> None:
        """From now on; without an ear, time passes in the stream and nothing is heard there."""
        with self._lock:
            self._streams[stream] = ear

    def leave(self, stream: Stream) -> None:
        """When this returns, the stream may be destroyed."""
        with self._lock:
            self._streams.pop(stream, None)

    def do_before(self, work: Callable[[], None]) -> None:
        """At each tick, before any ear, until `do_no_more`, or until it raises. It may pull from streams."""
        with self._lock:
            self._before = (*self._before, work)

    def do_no_more(self, work: Callable[[], None]) -> None:
        """When this returns, it is not being done."""
        with self._lock:
            self._before = tuple(other for other in self._before if other != work)

    def stop(self) -> None:
        """Serve nobody."""
        with self._lock:
            self._streams.clear()
            self._before = ()

    def onFrameReceived(self, frame: Any) -> None:  # noqa: N802
        """A tick: the bridge has nothing for this port, and says so every 20 ms."""
        now_ns = time.monotonic_ns()
        if not self._is_pinned:
            self._is_pinned = True
            ctypes.pythonapi.PyGILState_Ensure()  # this thread's Python state stays between ticks: cheaper
        with self._lock:
            for work in self._before:
                try:
                    work()
                except Exception:  # the edge of a call: the others hear on
                    self._before = tuple(other for other in self._before if other != work)
                    log.exception("a conference stands still")
            for stream, ear in tuple(self._streams.items()):
                try:
                    if ear is None:
                        stream.push_nothing()
                    else:
                        _serve(stream, ear, now_ns)
                except Exception as wrong:  # the edge of a call: the others hear on
                    del self._streams[stream]
                    log.exception("a stream is served no more")
                    if ear is not None:
                        ear.wrong = wrong


def _serve(stream: Stream, ear: Ear, now_ns: int) -> None:
    if not ear.pulls:
        ear.first_pull_ns = now_ns
    ear.last_pull_ns = now_ns
    ear.pulls += 1
    stream.push(ear.pull())
