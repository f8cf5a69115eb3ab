"""Keys that are pressed in a call: by RTP telephone events (RFC 4733) or as two tones, in and out.

    events  -> `Presses.receive`   one digit for each press, whatever was lost, doubled or overtaken
    sound   -> `ToneEar.listen`    one digit for each press, by Goertzel's sums over 25 ms (ITU-T Q.23, Q.24)
    digits  -> `tones`             what a telephone exchange hears of them

It knows no packet and no call. Sound is int16, mono; times are milliseconds of the sender's clock.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from media.chunk import PCM
from media.timebase import FRAME_MS, samples_of

ROWS_HZ: Final = (697, 770, 852, 941)
COLUMNS_HZ: Final = (1209, 1336, 1477, 1633)
KEYS: Final = ("123A", "456B", "789C", "*0#D")
"""By row and column."""
MOST_DIGITS: Final = 32
"""In one go."""
DIGITS: Final = re.compile(rf"[0-9A-D*#]{{1,{MOST_DIGITS}}}")

PAUSE_MS: Final = 30
"""Between two presses of one key at least: a finger takes 50. Less is a sender that moves the time stamp within a
press, against RFC 4733 2.2.2."""
OVERTAKEN_MS: Final = 5_000
"""A time stamp so little before the newest one is of a packet that came late; more is another sender's clock."""
CLOCK_MS: Final = 1 << 29
"""RTP's 32 bits at 8 kHz come round after so many milliseconds."""

WINDOW_MS: Final = 25.0
HOP_MS: Final = 12.5
LEAST_RMS: Final = 90.0
"""About -51 dBov. A key's two tones are sent at -14 dBov or so; lines take 30 dB away at worst (Q.24)."""
LEAST_PURITY: Final = 0.6
"""Of the power, in the two tones: speech and music have more beside them."""
MOST_TWIST: Final = 6.3
"""8 dB between the tones, either way (Q.24 annex A)."""
LEAST_LEAD: Final = 6.0
"""Of each tone over the next strongest of its group."""
MOST_HARMONIC: Final = 0.08
"""Of a tone's power at twice its frequency: voices have harmonics, keys have none."""
LEAST_WINDOWS: Final = 2
"""37 ms of tone: Q.24 has 40 accepted and 23 ignored."""
GAP_WINDOWS: Final = 2
"""So many without the key end a press: one may be spoilt by a lost packet."""

Floats = npt.NDArray[np.float32]


class Presses:
    """Telephone events as they are told: begin, updates and end of each press, some of them missing.

    What tells one press from the next is its time stamp (RFC 4733 2.2.2), which all packets of a press share; the
    marker bit is not looked at.
    """

    def __init__(self) -> None:
        self._digit = ""
        self._began_ms = 0
        self._lasted_ms = 0

    def receive(self, digit: str, timestamp_ms: int, duration_ms: int) -> str | None:
        """One packet that was not a repetition: its digit when it is the first of a press, else None.

        `timestamp_ms` is when the press began, by the sender's clock, `duration_ms` how long it has lasted.
        """
        since_ms = (timestamp_ms - self._began_ms) % CLOCK_MS
        if self._digit and CLOCK_MS - since_ms < OVERTAKEN_MS:
            return None  # of a press before this one
        if digit == self._digit and since_ms < self._lasted_ms + PAUSE_MS:
            self._lasted_ms = max(self._lasted_ms, since_ms + duration_ms)
            return None
        self._digit, self._began_ms, self._lasted_ms = digit, timestamp_ms, duration_ms
        return digit


class ToneEar:
    """Keys in the sound of one call, at `rate_hz`; only where nothing better is sent."""

    def __init__(self, rate_hz: int) -> None:
        self._size, self._hop = round(rate_hz * WINDOW_MS / 1000), round(rate_hz * HOP_MS / 1000)
        self._rest = np.zeros(self._size - self._hop, np.float32)
        hz = np.array([*ROWS_HZ, *COLUMNS_HZ, *(2 * f for f in (*ROWS_HZ, *COLUMNS_HZ))], np.float64)
        angle = 2 * np.pi * np.outer(np.arange(self._size), hz) / rate_hz
        self._sums: Floats = np.concatenate((np.cos(angle), np.sin(angle)), axis=1).astype(np.float32)
        self._heard = ""
        self._windows = self._gap = 0
        self._told = False

    def listen(self, pcm: PCM) -> str:
        """Digits whose press was recognised in these samples, int16 [whole hops], in order; mostly none."""
        sound = np.concatenate((self._rest, pcm.astype(np.float32)))
        self._rest = sound[len(sound) - (self._size - self._hop) :]
        frames = np.lib.stride_tricks.sliding_window_view(sound, self._size)[:: self._hop]
        power = np.mean(frames * frames, axis=1)
        if not np.any(power > LEAST_RMS**2):
            self._take([""] * len(frames))
            return ""
        return self._take(self._keys(frames, power))

    def _keys(self, frames: Floats, power: Floats) -> list[str]:
        """The key of each window, "" for none."""
        sums = frames @ self._sums  # [windows, 2 * 16]
        tones = (sums[:, :16] ** 2 + sums[:, 16:] ** 2) * (2.0 / self._size**2)  # power of each tone
        rows, columns, doubled = tones[:, :4], tones[:, 4:8], tones[:, 8:]
        row, column = np.argmax(rows, axis=1), np.argmax(columns, axis=1)
        at = np.arange(len(frames))
        low, high = rows[at, row], columns[at, column]
        next_low, next_high = np.sort(rows, axis=1)[:, 2], np.sort(columns, axis=1)[:, 2]
        is_key = (
            (power > LEAST_RMS**2)
            & (low + high > LEAST_PURITY * power)
            & (low < MOST_TWIST * high)
            & (high < MOST_TWIST * low)
            & (low > LEAST_LEAD * next_low)
            & (high > LEAST_LEAD * next_high)
            & (doubled[at, row] < MOST_HARMONIC * low)
            & (doubled[at, column + 4] < MOST_HARMONIC * high)
        )
        return [KEYS[row[i]][column[i]] if is_key[i] else "" for i in range(len(frames))]

    def _take(self, keys: list[str]) -> str:
        found = ""
        for key in keys:
            if key and key == self._heard:
                self._windows, self._gap = self._windows + 1, 0
            elif key:
                self._heard, self._windows, self._gap, self._told = key, 1, 0, False
            elif self._heard:
                self._gap += 1
                if self._gap >= GAP_WINDOWS or not self._told:
                    self._heard = ""
            if self._heard and self._windows >= LEAST_WINDOWS and not self._told:
                self._told = True
                found += key
        return found


class Mouth:
    """What one peer hears: the model's speech, and over it the tones of keys that are pressed for it.

    `pull` belongs to the thread that pulls frames, `press` to any other.
    """

    def __init__(self, speech: Callable[[], bytes], rate_hz: int) -> None:
        self._speech, self._rate_hz = speech, rate_hz
        self._frames: deque[bytes] = deque()  # bounded by `press`

    def press(self, digits: str) -> bool:
        """False when more than two of the longest rows of digits would wait."""
        if len(self._frames) > MOST_DIGITS * (TONE_MS + SILENCE_MS) // FRAME_MS:
            return False
        sound, size = tones(digits, self._rate_hz).tobytes(), 2 * samples_of(FRAME_MS, self._rate_hz)
        self._frames.extend(sound[at : at + size] for at in range(0, len(sound), size))
        return True

    def stop(self) -> None:
        """What waits is not said any more."""
        self._frames.clear()

    def pull(self) -> bytes:
        """The next 20 ms, int16. Speech goes on meanwhile, unheard."""
        speech = self._speech()
        try:
            return self._frames.popleft() if self._frames else speech
        except IndexError:  # stopped just now
            return speech


TONE_MS: Final = 100
SILENCE_MS: Final = 80
TONE_PEAK: Final = 6_500.0
"""Of each of the two: -14 dBov, and together they do not clip."""
_RAMP_MS: Final = 2


def tones(digits: str, rate_hz: int) -> PCM:
    """What digits sound like: 100 ms each, 80 ms between them. `ValueError` for other characters than 0-9A-D*#."""
    if not DIGITS.fullmatch(digits):
        raise ValueError(f"{digits[:MOST_DIGITS]!r}: expected 1 to {MOST_DIGITS} of 0-9A-D*#")
    size = rate_hz * TONE_MS // 1000
    time_s = np.arange(size) / rate_hz
    edge = rate_hz * _RAMP_MS // 1000
    ramp = np.minimum(1.0, np.minimum(np.arange(size) + 1, size - np.arange(size)) / edge)
    silence = np.zeros(rate_hz * SILENCE_MS // 1000, np.int16)
    parts: list[PCM] = []
    for digit in digits:
        row = next(r for r, keys in enumerate(KEYS) if digit in keys)
        pair = (ROWS_HZ[row], COLUMNS_HZ[KEYS[row].index(digit)])
        wave = sum(np.sin(2 * np.pi * hz * time_s) for hz in pair)
        parts += [(TONE_PEAK * ramp * wave).astype(np.int16), silence]
    return np.concatenate(parts)
