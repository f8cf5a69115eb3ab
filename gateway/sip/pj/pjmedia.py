"""The C interface below pjsua2, as much of it as `stream` needs: its Python module exports it in both builds.

Leaned on (`tests/gateway/sip/test_pj_media.py`): `pjmedia_port_get_frame`, `_put_frame`, `_add_ref` and `_dec_ref`,
`pjmedia_null_port_create`, `pjmedia_stream_get_last_jb_frame_type`, `pjmedia_stream_get_stat_jbuf`,
`pjsua_pool_create`, `pj_sockaddr_parse`; the layouts of `pj_str_t`, `pjmedia_frame`, `pjmedia_jb_state` and
`OnStreamCreatedParam`.

Who holds the interpreter's lock: what the owner's thread asks for takes microseconds and at most the stream's
own mutex, which nobody holds while he waits for Python, so it is kept. `put` gives it away: once in five seconds it
sends RTCP, for which 2.15 takes the transport's lock, and holds that while it tells Python of an RFC 4733 digit.
"""

from __future__ import annotations

import copy
import ctypes
from typing import Any, Final, NamedTuple

import pjsua2 as pj

from media.timebase import FRAME_MS, samples_of

STORE_FRAME_MS: Final = 10
"""Of one entry of pjmedia's store: what its G.711 and G.722 cut packets into."""
ROOM_BYTES: Final = 2 * samples_of(255 * STORE_FRAME_MS, 16_000)
"""A peer's `a=ptime` sets how much one `get` gives: so many frames of the codec, kept in an octet."""
_NORMAL: Final = 1  # PJMEDIA_JB_NORMAL_FRAME: neither missing nor empty
_NONE, _AUDIO = 0, 1  # PJMEDIA_FRAME_TYPE_NONE, PJMEDIA_FRAME_TYPE_AUDIO


class Frame(ctypes.Structure):
    """`pjmedia_frame`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buf", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("timestamp", ctypes.c_uint64),
        ("bit_info", ctypes.c_uint32),
    )


_STATE_WORDS: Final = {15: 6, 16: 7}
"""Of `pjmedia_jb_state`, all unsigned: how many (2.15 has one less than 2.17), and which is `size`; the last three
are `lost`, `discard`, `empty`."""
_UNTOUCHED: Final = 0xFFFF_FFFF
_STREAM_INDEX_AT, _DESTROY_PORT_AT, _PORT_AT = 8, 12, 16
"""Of `OnStreamCreatedParam`: void *stream, unsigned streamIdx, bool destroyPort, void *pPort."""


class StoreState(NamedTuple):
    """Of pjmedia's store, in its frames."""

    size: int
    troubles: tuple[int, int, int]
    """Lost, discarded and asked for in vain, since the stream began."""


class Pjmedia:
    """The functions of one process's library, and room for a packet."""

    def __init__(self, path: str) -> None:
        """Raises AttributeError when the library at `path` does not show them, RuntimeError when it is laid out
        otherwise."""
        kept, given_away = ctypes.PyDLL(path), ctypes.CDLL(path)
        address, number = ctypes.c_void_p, ctypes.c_uint
        self._get_frame = _function(kept.pjmedia_port_get_frame, address, address)
        self._kind = _function(kept.pjmedia_stream_get_last_jb_frame_type, address, gives=ctypes.c_byte)
        self._get_state = _function(kept.pjmedia_stream_get_stat_jbuf, address, address)
        self._put_frame = _function(given_away.pjmedia_port_put_frame, address, address)
        self._add_ref = _function(given_away.pjmedia_port_add_ref, address)
        self._dec_ref = _function(given_away.pjmedia_port_dec_ref, address)
        self._create_pool = _function(
            given_away.pjsua_pool_create, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, gives=address
        )
        self._create_null_port = _function(
            given_away.pjmedia_null_port_create, address, number, number, number, number, address
        )
        self._pool: int | None = None
        self._words = 0
        self._make_room()
        check_created_param(pj.OnStreamCreatedParam())

    def _make_room(self) -> None:
        self._state = (ctypes.c_uint32 * 32)()
        self._state_at = ctypes.addressof(self._state)
        self._room = ctypes.create_string_buffer(ROOM_BYTES)
        self._room_at = ctypes.addressof(self._room)
        self._in, self._out, self._nothing = Frame(), Frame(type=_AUDIO), Frame(type=_NONE)
        ctypes.c_void_p.from_buffer(self._in, Frame.buf.offset).value = self._room_at
        self._in_at, self._out_at = ctypes.addressof(self._in), ctypes.addressof(self._out)
        self._nothing_at = ctypes.addressof(self._nothing)

    def twin(self) -> Pjmedia:
        """The same functions with room of their own, for another thread."""
        other = copy.copy(self)
        other._make_room()
        return other

    # -- in the thread that owns the library; of a `twin`, in the clock's

    def get(self, port: int, stream: int, size: int) -> bytes | None:
        """The oldest packet of the stream, int16 [`size` / 2]; None where there should be some.

        `size` must be what the port gives: it writes that much, whatever it is told.
        """
        self._in.size = size
        self._get_frame(port, self._in_at)
        if self._in.type != _AUDIO or self._kind(stream) != _NORMAL:
            return None
        return ctypes.string_at(self._room_at, size)

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

    def keep(self, port: int) -> None:
        """One reference more: the stream's memory stays until `let_go`, even if the library destroys it."""
        self._add_ref(port)

    def let_go(self, port: int) -> None:
        """What `keep` took."""
        self._dec_ref(port)

    def give_bridge_nothing(self, created: Any, rate_hz: int) -> None:
        """In place of the stream of an `OnStreamCreatedParam` a port without sound goes to the conference bridge.

        Else the bridge would put a frame of silence into a stream that nobody on it speaks to, beside ours. The
        port is destroyed with the stream. Raises RuntimeError when the library makes none.
        """
        if self._pool is None:
            self._pool = self._create_pool(b"nothing", 512, 512)
        port = ctypes.c_void_p()
        samples = samples_of(FRAME_MS, rate_hz)
        status = self._create_null_port(self._pool, rate_hz, 1, samples, 16, ctypes.addressof(port))
        if status or not port.value:
            raise RuntimeError(f"pjmedia_null_port_create failed: {status}")
        ctypes.c_void_p.from_address(int(created.this) + _PORT_AT).value = port.value
        created.destroyPort = True

    # -- in the clock's thread

    def put(self, port: int, pcm: bytes) -> None:
        """Sound to be sent now."""
        self._out.buf, self._out.size = pcm, len(pcm)
        self._put_frame(port, self._out_at)

    def put_nothing(self, port: int) -> None:
        """Time passes without sound: silence is sent, or, on hold, nothing but RTCP."""
        self._put_frame(port, self._nothing_at)


class _Text(ctypes.Structure):
    """`pj_str_t`."""

    _fields_ = (("ptr", ctypes.c_char_p), ("slen", ctypes.c_ssize_t))


def has_ipv6(path: str) -> bool:
    """Whether the library at `path` was built with IPv6 (PJ_HAS_IPV6): one without takes no such address."""
    library, text = ctypes.CDLL(path), _Text(b"[::1]", 5)
    parse = _function(
        library.pj_sockaddr_parse, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p
    )
    room = ctypes.create_string_buffer(128)  # pj_sockaddr has 28
    return int(parse(0, 0, ctypes.addressof(text), ctypes.addressof(room))) == 0


def _function(function: Any, *takes: Any, gives: Any = ctypes.c_int) -> Any:
    function.argtypes, function.restype = takes, gives
    return function


def check_created_param(param: Any) -> None:
    """Raises RuntimeError unless `OnStreamCreatedParam` lies in memory as this file believes."""
    at = int(param.this)
    param.streamIdx, param.destroyPort = 0x1234_5678, True
    found = ctypes.c_uint.from_address(at + _STREAM_INDEX_AT).value == 0x1234_5678
    found = found and ctypes.c_uint8.from_address(at + _DESTROY_PORT_AT).value == 1
    if found:
        ctypes.c_void_p.from_address(at + _PORT_AT).value = at
        found = int(param.pPort) == at and param.streamIdx == 0x1234_5678 and bool(param.destroyPort)
    if not found:
        raise RuntimeError(
            "pjsua2's OnStreamCreatedParam is laid out otherwise than in 2.15 and 2.17: install one of these"
        )
