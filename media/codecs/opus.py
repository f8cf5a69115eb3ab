"""Opus by libopus itself: mono, at the rate that the caller of this module wants (RFC 6716, RFC 7587).

ctypes binds the library that the PyAV wheel carries, else the system's; its calls run without the GIL. FFmpeg's
own wrapper hides what a gateway needs most, in-band FEC and concealment. Knows nothing of RTP or time.

One rule: one object belongs to one thread (libopus has no locks, and the buffers here are re-used). Bytes
from a peer never raise: a packet that cannot be decoded gives no samples.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import weakref
from pathlib import Path
from typing import Final

import numpy as np

from media.chunk import PCM
from media.timebase import FRAME_MS, NS_PER_S

MAX_PACKET_MS: Final = 120
MAX_PAYLOAD_BYTES: Final = 1275
"""Of one frame, RFC 6716 section 3.2.1; what `encode` gives never exceeds it."""
LOW_DELAY_COMPLEXITY, ROBUST_COMPLEXITY = 0, 1
"""On read digits, complexity 0 / 1: CELT at 48 kbit/s 20 / 25 us a frame for PESQ 4.32 / 4.39, SILK with FEC at
24 kbit/s 40 / 42 us for 4.16 / 4.21; 2 costs SILK 73 us for 4.20 (`tests/media/codecs` holds it above 3.5)."""
FEC_ON_PERCENT, FEC_OFF_PERCENT, FEC_OFF_NS = 2.0, 1.0, 5 * NS_PER_S
"""LBRR costs bits and SILK twice the CPU, so both are for lines that lose; and 5 s keep a line near the threshold
from changing modes, which is heard, with every report."""
BITRATES: Final = (6_000, 128_000)

_OK, _VOIP, _RESTRICTED_LOWDELAY, _SIGNAL_VOICE = 0, 2048, 2051, 3001
_SET_BITRATE, _SET_COMPLEXITY, _SET_INBAND_FEC, _SET_LOSS, _SET_SIGNAL = 4002, 4010, 4012, 4014, 4024
_RESET_STATE = 4028
_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
# Microseconds of one frame by the five configuration bits, RFC 6716 table 2.
_FRAME_US = (10_000, 20_000, 40_000, 60_000) * 3 + (10_000, 20_000) * 2 + (2_500, 5_000, 10_000, 20_000) * 4
_FIRST_CELT_CONFIG = 16
_CELT_AND_SILK_STEP_HZ = 400
"""Concealment comes in whole 2.5 ms."""


@functools.cache
def library() -> ctypes.CDLL:
    """libopus. Raises ImportError, saying what to install, when there is none."""
    for name in (*_bundled(), "libopus.so.0"):
        try:
            return _typed(ctypes.CDLL(name))
        except OSError:
            continue
    raise ImportError(
        "no libopus: install PyAV, whose wheel has one (pip install av), or apt-get install libopus0"
    )


def samples_in(payload: bytes, rate_hz: int) -> int:
    """Samples per channel at `rate_hz` that the packet lasts; 0 when it is no Opus packet (RFC 6716 3.4)."""
    if not payload:
        return 0
    code = payload[0] & 3
    if code == 3:
        frames = payload[1] & 0x3F if len(payload) > 1 else 0
    else:
        frames = 1 if code == 0 else 2
        if code == 1 and not len(payload) & 1 or code == 2 and len(payload) < 2:
            return 0
    total_us = frames * _FRAME_US[payload[0] >> 3]
    return rate_hz * total_us // 1_000_000 if total_us <= MAX_PACKET_MS * 1000 else 0


def frame_samples(payload: bytes, rate_hz: int) -> int:
    """Samples of one frame of the packet (which may hold several); 0 when there are no bytes."""
    return rate_hz * _FRAME_US[payload[0] >> 3] // 1_000_000 if payload else 0


def has_lbrr(payload: bytes) -> bool:
    """Whether the packet carries the frame before it once more, coarser: the LBRR flags of RFC 6716 4.2.3."""
    if len(payload) < 2 or payload[0] >> 3 >= _FIRST_CELT_CONFIG:
        return False
    start, size = _first_frame(payload)
    if size < 1 or start >= len(payload):
        return False
    silk_frames = max(1, _FRAME_US[payload[0] >> 3] // 20_000)
    header = payload[start]
    in_mid = header >> (7 - silk_frames) & 1
    in_side = header >> max(0, 6 - 2 * silk_frames) & 1 if payload[0] & 4 else 0
    return bool(in_mid | in_side)


class OpusDecoder:
    """One stream's packets as mono PCM at `rate_hz` (8, 12, 16, 24 or 48 kHz)."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = _checked_rate(rate_hz)
        self._max_samples = rate_hz * MAX_PACKET_MS // 1000
        self._step = rate_hz // _CELT_AND_SILK_STEP_HZ
        lib, error = library(), ctypes.c_int()
        self._state = lib.opus_decoder_create(rate_hz, 1, ctypes.byref(error))
        if not self._state or error.value != _OK:
            raise MemoryError(f"libopus made no decoder (error {error.value})")
        weakref.finalize(self, lib.opus_decoder_destroy, self._state).atexit = False
        self._decode = lib.opus_decode
        self._pcm = np.zeros(self._max_samples, np.int16)
        self._address = self._pcm.ctypes.data

    def decode(self, payload: bytes) -> PCM:
        """int16 [n] of one packet of up to 120 ms; no samples when it is none."""
        if not payload:
            return self._pcm[:0].copy()  # libopus would take it for a lost one
        return self._taken(
            self._decode(self._state, payload, len(payload), self._address, self._max_samples, 0)
        )

    def recover(self, following: bytes, samples: int) -> PCM:
        """int16 [samples] that end where `following` begins, from its LBRR; concealed where it has none.

        LBRR spans one frame (`recoverable`); what `samples` ask beyond that is concealed in front of it.
        """
        wanted = self._whole_steps(samples)
        count = self._decode(self._state, following, len(following), self._address, wanted, 1)
        return self._fitted(count, samples)

    def conceal(self, samples: int) -> PCM:
        """int16 [samples] that go on from what was decoded last (libopus's PLC, comfort noise after DTX)."""
        wanted = self._whole_steps(samples)
        return self._fitted(self._decode(self._state, None, 0, self._address, wanted, 0), samples)

    def duration(self, payload: bytes) -> int:
        """Samples that the packet lasts; 0 when it is no Opus packet."""
        return samples_in(payload, self.rate_hz)

    def recoverable(self, payload: bytes) -> int:
        """Samples before the packet that its LBRR can give back; 0 when it has none."""
        return frame_samples(payload, self.rate_hz) if has_lbrr(payload) else 0

    def is_pause(self, payload: bytes) -> bool:
        """Whether the sender says that it falls silent: no frame in it, only the TOC (DTX, RFC 6716 2.1.9)."""
        return len(payload) <= 2

    def _whole_steps(self, samples: int) -> int:
        assert 0 < samples <= self._max_samples, (samples, self._max_samples)
        return -(-samples // self._step) * self._step

    def _taken(self, count: int) -> PCM:
        return self._pcm[: max(0, count)].copy()

    def _fitted(self, count: int, samples: int) -> PCM:
        return self._taken(min(count, samples)) if count >= samples else np.zeros(samples, np.int16)


class OpusEncoder:
    """20 ms frames of mono PCM as packets.

    On a clean line CELT in restricted low-delay mode (2.5 ms of look-ahead, half of SILK's CPU); on one that
    loses, SILK or hybrid with in-band FEC. libopus allows no such change after the first frame, so there is one
    encoder for each, the second made when first needed. At a change the new one begins without a past, and the
    receiver's decoder cross-fades over 5 ms, as at any change of mode; the 4 ms between the two look-aheads
    are said twice or not at all.
    """

    def __init__(self, rate_hz: int = 16_000, bitrate: int = 32_000) -> None:
        self.rate_hz = _checked_rate(rate_hz)
        if not BITRATES[0] <= bitrate <= BITRATES[1]:
            raise ValueError(f"bitrate {bitrate}: Opus speech wants {BITRATES[0]} to {BITRATES[1]} bit/s")
        self.bitrate = bitrate
        self.fec = False
        self.switches = 0
        self._samples = rate_hz * FRAME_MS // 1000
        self._packet = ctypes.create_string_buffer(MAX_PAYLOAD_BYTES)
        self._view = memoryview(self._packet)
        self._address = ctypes.addressof(self._packet)
        self._encode = library().opus_encode
        self._below_since_ns: int | None = None
        self._loss_percent = 0
        self._low_delay = self._state = self._made(_RESTRICTED_LOWDELAY, LOW_DELAY_COMPLEXITY)
        self._robust: int | None = None

    def encode(self, pcm: PCM) -> bytes:
        """int16 [20 ms] -> one packet of 1 to 1275 bytes; b"" if libopus refuses (it never did)."""
        return self.encode_frame(pcm.tobytes())

    def encode_frame(self, frame: bytes) -> bytes:
        """As `encode`, of native int16 bytes."""
        assert len(frame) == 2 * self._samples, (len(frame), self._samples)
        count = self._encode(self._state, frame, self._samples, self._address, MAX_PAYLOAD_BYTES)
        return self._view[:count].tobytes() if count > 0 else b""

    def tune(self, loss_percent: float, bitrate: int, now_ns: int) -> None:
        """To what the peer reports: packets lost on the way to it, and bit/s that the line bears (clipped)."""
        if loss_percent >= FEC_OFF_PERCENT:
            self._below_since_ns = None
        elif self._below_since_ns is None:
            self._below_since_ns = now_ns
        low, high = BITRATES
        self.bitrate = min(max(bitrate, low), high)
        self._loss_percent = min(max(round(loss_percent), 0), 100)
        if not self.fec and loss_percent > FEC_ON_PERCENT:
            self._change(fec=True)
        elif self.fec and self._below_since_ns is not None and now_ns - self._below_since_ns >= FEC_OFF_NS:
            self._change(fec=False)
        self._set(self._state, _SET_BITRATE, self.bitrate)
        if self.fec:
            self._set(self._state, _SET_LOSS, max(self._loss_percent, round(FEC_ON_PERCENT)))

    def _change(self, *, fec: bool) -> None:
        self.fec = fec
        self.switches += 1
        if fec and self._robust is None:
            self._robust = self._made(_VOIP, ROBUST_COMPLEXITY)
            self._set(self._robust, _SET_INBAND_FEC, 1)
            self._set(self._robust, _SET_SIGNAL, _SIGNAL_VOICE)
        self._state = self._robust if fec and self._robust is not None else self._low_delay
        library().opus_encoder_ctl(ctypes.c_void_p(self._state), _RESET_STATE)

    def _made(self, application: int, complexity: int) -> int:
        lib, error = library(), ctypes.c_int()
        state: int | None = lib.opus_encoder_create(self.rate_hz, 1, application, ctypes.byref(error))
        if not state or error.value != _OK:
            raise MemoryError(f"libopus made no encoder (error {error.value})")
        weakref.finalize(self, lib.opus_encoder_destroy, state).atexit = False
        self._set(state, _SET_BITRATE, self.bitrate)
        self._set(state, _SET_COMPLEXITY, complexity)
        return state

    def _set(self, state: int, request: int, value: int) -> None:
        result = library().opus_encoder_ctl(
            ctypes.c_void_p(state), ctypes.c_int(request), ctypes.c_int32(value)
        )
        assert result == _OK, (request, value, result)


def _bundled() -> list[str]:
    """libopus beside the installed PyAV, without importing it."""
    spec = importlib.util.find_spec("av")
    if spec is None or spec.origin is None:
        return []
    return sorted(map(str, (Path(spec.origin).parents[1] / "av.libs").glob("libopus-*.so*")))


def _typed(lib: ctypes.CDLL) -> ctypes.CDLL:
    state, number, pointer = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
    lib.opus_decoder_create.restype = lib.opus_encoder_create.restype = state
    lib.opus_decoder_create.argtypes = [ctypes.c_int32, number, pointer]
    lib.opus_encoder_create.argtypes = [ctypes.c_int32, number, number, pointer]
    lib.opus_decoder_destroy.argtypes = lib.opus_encoder_destroy.argtypes = [state]
    lib.opus_decoder_destroy.restype = lib.opus_encoder_destroy.restype = None
    lib.opus_decode.argtypes = [state, ctypes.c_char_p, ctypes.c_int32, state, number, number]
    lib.opus_encode.argtypes = [state, ctypes.c_char_p, number, state, ctypes.c_int32]
    return lib


def _checked_rate(rate_hz: int) -> int:
    if rate_hz not in _RATES:
        raise ValueError(f"Opus has no {rate_hz} Hz: use one of {', '.join(map(str, _RATES))}")
    return rate_hz


def _first_frame(payload: bytes) -> tuple[int, int]:
    """Offset and bytes of the packet's first frame (RFC 6716 3.2); a size below 1 when it has none."""
    code, length = payload[0] & 3, len(payload)
    if code == 0:
        return 1, length - 1
    if code == 1:
        return 1, (length - 1) // 2
    if code == 2:
        return _sized(payload, 1)
    return _first_of_many(payload)


def _first_of_many(payload: bytes) -> tuple[int, int]:
    """Code 3: a count byte, perhaps padding, perhaps a length for each frame but the last (3.2.5)."""
    frames, at, padding = payload[1] & 0x3F, 2, 0
    if payload[1] & 0x40:
        while at < len(payload):
            at += 1
            padding += min(payload[at - 1], 254)
            if payload[at - 1] != 255:
                break
    if not payload[1] & 0x80:
        return at, (len(payload) - at - padding) // max(1, frames)
    size = len(payload) - at - padding
    for index in range(frames - 1):
        at, this = _sized(payload, at)
        if index == 0:
            size = this
    return at, size


def _sized(payload: bytes, at: int) -> tuple[int, int]:
    """A frame length of one or two bytes at `at` (3.2.1): where it ends, and what it says; -1 when it is cut."""
    if at >= len(payload):
        return at, -1
    if payload[at] < 252:
        return at + 1, payload[at]
    return (at + 2, payload[at] + 4 * payload[at + 1]) if at + 1 < len(payload) else (at + 1, -1)
