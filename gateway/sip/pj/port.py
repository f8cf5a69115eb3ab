"""One call's port on the bridge, and how its frames are copied between the library and Python."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import pjsua2 as pj
import structlog

log = structlog.get_logger()

_Vector: Any = ctypes.c_void_p * 3  # libstdc++ std::vector: begin, end, capacity
_Vector_from = _Vector.from_address
_copy_out, _copy_in = ctypes.string_at, ctypes.memmove


def _get(vector: Any) -> bytes:
    begin, end, _ = _Vector_from(int(vector.this))
    return _copy_out(begin, end - begin) if begin else b""


def _put(vector: Any, data: bytes) -> None:
    vector.resize(len(data))
    _copy_in(_Vector_from(int(vector.this))[0], data, len(data))


def _get_slowly(vector: Any) -> bytes:
    return bytes(vector)


def _put_slowly(vector: Any, data: bytes) -> None:
    vector.assign(0, 0)
    for byte in data:
        vector.append(byte)


def vectors_are_fast() -> bool:
    """Whether a ByteVector lies in memory as this file believes: written, read back, compared."""
    vector = pj.ByteVector()
    data = bytes(range(256)) * 2
    _put(vector, data)
    return bytes(vector) == data and _get(vector) == data


def choose_copies() -> None:
    """Before the first port is made: the fast copies, if this build lets them."""
    global _get, _put
    if not vectors_are_fast():
        log.warning("pjsua2's vectors lie elsewhere in memory: frames are copied the slow way")
        _get, _put = _get_slowly, _put_slowly


_pinned: set[int] = set()


def _pin_this_thread() -> None:
    """Keep the Python state of a native thread between callbacks: 1.2 ms less a call-second."""
    if threading.get_ident() not in _pinned:
        _pinned.add(threading.get_ident())
        ctypes.pythonapi.PyGILState_Ensure()


class Port(pj.AudioMediaPort):  # type: ignore[misc]  # pjsua2 has no types
    """One call's 20 ms port on the bridge, for what the caller hears; called in the native clock thread."""

    def __init__(self, pull: Callable[[], bytes]) -> None:
        super().__init__()
        self.pulls = 0
        self.first_pull_ns = 0
        self.last_pull_ns = 0
        self.pull = pull

    def onFrameReceived(self, frame: Any) -> None:  # noqa: N802
        """Nothing: the bridge has nothing for us, and says so every 20 ms."""

    def onFrameRequested(self, frame: Any) -> None:  # noqa: N802
        now_ns = time.monotonic_ns()
        if not self.first_pull_ns:
            self.first_pull_ns = now_ns
            _pin_this_thread()
        self.last_pull_ns = now_ns
        self.pulls += 1
        data = self.pull()
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        _put(frame.buf, data)
        frame.size = len(data)

    def destroy(self) -> None:
        """The library's half, in the owner's thread. It waits for a callback that is under way, so who calls this
        holds the other half until it returns."""
        pj.AudioMediaPort.__swig_destroy__(self)
