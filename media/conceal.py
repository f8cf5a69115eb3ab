"""What is put where sound is missing, and how sound is taken out where there is too much of it.

`Concealer` is ITU-T G.711 Appendix I (09/99), at 8 kHz or a multiple of it. What is missing is filled with the last
pitch period, from 10 ms on with the last two, then three, so that it does not hum; it fades by a fifth each 10 ms
from then on, and is silent after 60. The seams are cross-faded: at its beginning with a quarter of a period of true
sound, so all is handed out 3.75 ms later; at its end the made-up sound goes on below the true one, for 4 ms more
with each 10 ms. Of the ITU's two test vectors 177 of 45,920 samples differ by 1, the others are equal.

`shorten` takes a stretch out at the place where its two edges resemble each other most (silence first, since
there they are equal) and cross-fades them, as WSOLA does (Verhelst and Roelands, ICASSP 1993); `stretch` says one
twice.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from media.chunk import PCM

_CROSS_MS, _STEP_MS = 5, 1

SCALE_HZ: Final = 8_000
_PITCH_MIN, _PITCH_MAX = 40, 120
"""200 down to 66 Hz. This and what follows in samples at 8 kHz."""
DELAY: Final = _PITCH_MAX // 4
_HISTORY: Final = 3 * _PITCH_MAX + DELAY
_MATCH, _COARSE = 160, 2
"""What is compared: every second sample, then all of them about the best."""
_LEAST_POWER: Final = 250.0
"""Of a window: below it, what is compared is noise."""
_BLOCK: Final = 80
"""10 ms: after so much of a gap the periods become more, and the overlap at its end longer by `_LONGER`."""
_PERIODS, _LONGER, _FADE = 3, 32, 0.2

Wave = NDArray[np.float64]


class Concealer:
    """One stream: what came and what did not, in its order; out comes the same, `delay` samples later."""

    def __init__(self, rate_hz: int = SCALE_HZ) -> None:
        assert rate_hz % SCALE_HZ == 0, rate_hz
        self._scale = rate_hz // SCALE_HZ
        self.delay = DELAY * self._scale
        self._room, self._block = _HISTORY * self._scale, _BLOCK * self._scale
        self._past: PCM = np.zeros(self._room, np.int16)  # of it, the last `delay` are not handed out
        self._gap = 0  # samples made up in a row
        self._wave: Wave = np.zeros(self._room)  # the past at the gap's begin; its end is repeated
        self._quarter: Wave = np.zeros(0)  # its last quarter period, as it was
        self._pitch = self._length = _PITCH_MIN * self._scale  # one period; those repeated
        self._at = 0  # in them

    def receive(self, pcm: PCM) -> PCM:
        """What came, int16 [n]: handed out n samples, the first of them still mixed with what was made up."""
        if self._gap:
            count = min(
                len(pcm), self._quarter.size + (self._blocks - 1) * _LONGER * self._scale, self._block
            )
            gain = max(0.0, 1.0 - (self._blocks - 1) * _FADE)
            mixed = _overlap(self._repeat(count), pcm[:count].astype(np.float64), gain)
            pcm = np.concatenate((mixed, pcm[count:]))
            self._gap = 0
        return self._hand_out(pcm)

    def conceal(self, count: int) -> PCM:
        """What did not come: `count` samples, int16 [count]."""
        out = [np.zeros(0, np.int16)]
        while count > 0:
            part = min(count, self._block - self._gap % self._block)
            out.append(self._hand_out(self._make_up(part)))
            count -= part
        return np.concatenate(out)

    @property
    def _blocks(self) -> int:
        """10 ms that the gap has begun."""
        return -(-self._gap // self._block)

    def _hand_out(self, pcm: PCM) -> PCM:
        everything = np.concatenate((self._past, pcm))
        self._past = everything[-self._room :]
        return everything[self._room - self.delay :][: len(pcm)]

    def _make_up(self, count: int) -> PCM:
        """`count` more samples, of one block."""
        block, within = divmod(self._gap, self._block)
        if block == 0 and within == 0:
            self._begin()
        grows = 0 < block < _PERIODS and within == 0
        pcm = self._lengthen(count) if grows else self._repeat(count)
        if block:
            gain = 1.0 - (block - 1) * _FADE - (within + np.arange(count)) * (_FADE / self._block)
            pcm = pcm * np.maximum(gain, 0.0)
        self._gap += count
        return _to_pcm(pcm)

    def _begin(self) -> None:
        """The gap begins: its pitch, and the seam from the last true sound to its repetition."""
        self._wave = self._past.astype(np.float64)
        self._pitch = self._length = find_pitch(self._wave, self._scale)
        self._quarter = self._wave[-(self._pitch // 4) :].copy()
        self._at = 0
        self._close_loop()
        self._past = self._past.copy()
        self._past[-self._quarter.size :] = _to_pcm(self._wave[-self._quarter.size :])

    def _lengthen(self, count: int) -> Wave:
        """One period more is repeated from here on; cross-faded from what would have come."""
        at = self._at
        old = _to_pcm(self._repeat(self._quarter.size)).astype(np.float64)
        while at > self._pitch:
            at -= self._pitch
        self._at = at
        self._length += self._pitch
        self._close_loop()
        new = _to_pcm(self._repeat(count)).astype(np.float64)
        size = min(self._quarter.size, count)
        new[:size] = _overlap(old[:size], new[:size])
        return new

    def _close_loop(self) -> None:
        """The end of what is repeated leads to its beginning."""
        size = self._quarter.size
        before = self._wave[-self._length - size : -self._length]
        ramp = np.arange(1, size + 1) / size
        self._wave[-size:] = (1.0 - ramp) * self._quarter + ramp * before

    def _repeat(self, count: int) -> Wave:
        places = (self._at + np.arange(count)) % self._length
        self._at = (self._at + count) % self._length
        return self._wave[self._room - self._length + places]


def find_pitch(wave: Wave, scale: int) -> int:
    """Period in samples of the end of `wave`: the best normalised correlation of its last 20 ms with what is 5 to
    15 ms before, coarsely and then about the best."""
    low, high, step = _PITCH_MIN * scale, _PITCH_MAX * scale, _COARSE * scale
    lags = np.arange(high, low - 1, -step)
    coarse = int(lags[_best(wave, _MATCH * scale, lags, step)])
    fine = np.arange(min(high, coarse + step - 1), max(low, coarse - step + 1) - 1, -1)
    return int(fine[_best(wave, _MATCH * scale, fine, 1)])


def _best(wave: Wave, match: int, lags: NDArray[np.int64], step: int) -> int:
    """Of equal lags the shortest."""
    starts = len(wave) - match - lags
    windows = wave[starts[:, None] + np.arange(0, match, step)]
    power = np.maximum(np.einsum("ij,ij->i", windows, windows), _LEAST_POWER)
    score = (windows @ wave[-match::step]) / np.sqrt(power)
    return len(score) - 1 - int(np.argmax(score[::-1]))


def _overlap(before: Wave, after: Wave, gain: float = 1.0) -> PCM:
    """From one to the other; `gain` of the first."""
    ramp = np.arange(1, len(before) + 1) / len(before)
    return _to_pcm((1.0 - ramp) * gain * before + ramp * after)


def _to_pcm(wave: Wave) -> PCM:
    return np.clip(wave, -32768, 32767).astype(np.int16)


def shorten(pcm: PCM, count: int, rate_hz: int) -> tuple[PCM, int]:
    """int16 [n] -> int16 [n - count], the cut placed where it is heard least; n must exceed count + 5 ms.

    From the sample that is given with it on, `count` were left out.
    """
    cross = rate_hz * _CROSS_MS // 1000
    last = len(pcm) - count - cross
    assert count >= 0 and last > 0, (len(pcm), count)
    if count == 0:
        return pcm, 0
    start = _likest(pcm, count, cross, rate_hz)
    seam = _seam(pcm[start : start + cross], pcm[start + count : start + count + cross])
    return np.concatenate((pcm[:start], seam, pcm[start + count + cross :])), start + cross // 2


def stretch(pcm: PCM, count: int, rate_hz: int) -> tuple[PCM, int]:
    """int16 [n] -> int16 [n + count], `count` samples said twice where it is heard least; n as for `shorten`.

    They are those from the sample on that is given with it.
    """
    cross = rate_hz * _CROSS_MS // 1000
    assert count >= 0 and len(pcm) - count - cross > 0, (len(pcm), count)
    if count == 0:
        return pcm, 0
    start = _likest(pcm, count, cross, rate_hz)
    seam = _seam(pcm[start + count : start + count + cross], pcm[start : start + cross])
    return np.concatenate((pcm[: start + count], seam, pcm[start + cross :])), start + cross // 2


def _likest(pcm: PCM, count: int, cross: int, rate_hz: int) -> int:
    """Where the `cross` samples resemble most those that are `count` later."""
    samples = pcm.astype(np.float32)
    starts = np.arange(0, len(pcm) - count - cross, max(1, rate_hz * _STEP_MS // 1000))
    windows = sliding_window_view(samples, cross)
    apart = windows[starts] - windows[starts + count]
    return int(starts[np.argmin(np.einsum("ij,ij->i", apart, apart))])


def _seam(before: PCM, after: PCM) -> PCM:
    """From one to the other, as long as both are."""
    ramp = np.linspace(0.0, 1.0, len(before), dtype=np.float32)
    return (before * (1 - ramp) + after * ramp).astype(np.int16)
