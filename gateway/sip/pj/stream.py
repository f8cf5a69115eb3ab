"""A call's received stream, pulled by us: pjmedia keeps RTP, order and decoding, we say when and how much.

pjmedia's conference bridge would take a frame every 20 ms, and its jitter buffer gives delay back far too slowly
(`gateway/sip/options.py` has the figures). So nobody listens to the stream on the bridge, its jitter buffer is no
more than an ordered store, and each chunk is pulled when it is cut (`media/chunker.py`).

Leaned on, of the library's C interface, which its Python module exports in both builds (`tests/gateway/sip`):
`pjmedia_port_get_frame`, `pjmedia_stream_get_last_jb_frame_type`, `pjmedia_stream_get_stat_jbuf`, the layouts of
`pjmedia_frame` and `pjmedia_jb_state`. Belongs to the thread that owns the library: there streams are made and
destroyed, too.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, NamedTuple

import numpy as np

from media.chunk import PCM
from media.timebase import FRAME_MS, samples_of

STORE_FRAME_MS: Final = 10
"""Of one entry of pjmedia's store: what its G.711 and G.722 cut packets into."""
_NORMAL: Final = 1  # PJMEDIA_JB_NORMAL_FRAME: neither missing nor empty
_AUDIO: Final = 1  # PJMEDIA_FRAME_TYPE_AUDIO


class _Frame(ctypes.Structure):
    """`pjmedia_frame`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buf", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("timestamp", ctypes.c_uint64),
        ("bit_info", ctypes.c_uint32),
    )


_STATE_WORDS: Final = {15: 6, 16: 7}
"""Of `pjmedia_jb_state`, all unsigned: how many (2.15 has one less than 2.17), and which is `size`; the last three
are `lost`, `discard`, `empty`."""
_UNTOUCHED: Final = 0xFFFF_FFFF


class StoreState(NamedTuple):
    """Of pjmedia's store, in its frames."""

    size: int
    troubles: tuple[int, int, int]
    """Lost, discarded and asked for in vain, since the stream began."""


class Puller:
    """The three functions of one process's library, and room for a frame."""

    def __init__(self, path: str, rate_hz: int) -> None:
        """Raises AttributeError when the library at `path` does not show them."""
        library = ctypes.PyDLL(path)  # both take microseconds: not worth giving the GIL away
        self._get_frame: Any = library.pjmedia_port_get_frame
        self._get_frame.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._kind: Any = library.pjmedia_stream_get_last_jb_frame_type
        self._kind.argtypes, self._kind.restype = [ctypes.c_void_p], ctypes.c_byte
        self._get_state: Any = library.pjmedia_stream_get_stat_jbuf
        self._get_state.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._state = (ctypes.c_uint32 * 32)()
        self._state_at, self._words = ctypes.addressof(self._state), 0
        self._bytes = 2 * samples_of(FRAME_MS, rate_hz)
        self._room = ctypes.create_string_buffer(self._bytes)
        self._frame = _Frame(buf=ctypes.addressof(self._room))
        self._at = ctypes.addressof(self._frame)

    def pull(self, port: int, stream: int) -> PCM | None:
        """The oldest 20 ms, int16; None where there should be some."""
        self._frame.size = self._bytes
        self._get_frame(port, self._at)
        if self._frame.type != _AUDIO or self._kind(stream) != _NORMAL:
            return None
        return np.frombuffer(self._room.raw, np.int16)

    def state(self, stream: int) -> StoreState:
        """How much waits, and what has gone wrong. Raises RuntimeError when the library has another layout."""
        if not self._words:
            self._words = self._count_words(stream)
        state, words = self._state, self._words
        self._get_state(stream, self._state_at)
        return StoreState(state[_STATE_WORDS[words]], (state[words - 3], state[words - 2], state[words - 1]))

    def _count_words(self, stream: int) -> int:
        ctypes.memset(self._state_at, 0xFF, ctypes.sizeof(self._state))
        self._get_state(stream, self._state_at)
        words = sum(word != _UNTOUCHED for word in self._state)
        if words not in _STATE_WORDS:
            raise RuntimeError(f"pjmedia_jb_state has {words} words, expected one of {list(_STATE_WORDS)}")
        return words


class Stream:
    """One negotiated stream, from its making to its end."""

    def __init__(self, puller: Puller, port: int, stream: int, index: int) -> None:
        self.index = index
        self._puller, self._port, self._stream = puller, port, stream
        puller.pull(port, stream)  # the first empties the store ("soft start") and gives nothing

    def state(self) -> StoreState:
        """How much waits, and what has gone wrong."""
        return self._puller.state(self._stream)

    def pull(self) -> PCM | None:
        """The oldest 20 ms; None where there should be some."""
        return self._puller.pull(self._port, self._stream)
