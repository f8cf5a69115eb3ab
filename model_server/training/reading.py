"""What our voice said, read off its sound, and when: a reader that knows the voice, and a judge that does not.

The voice says a word always in the same way, so a recording of a call can be explained as silence and words of the
voice table one after another; the best explanation is found by dynamic programming over log-mel frames of the
telephone band. A word may be cut short where a turn of it ends. The reader says *which* word was meant, and when;
whether a stranger understands it is for `voice_judge` (pocketsphinx), which hears each word alone.

Shapes: T frames of 12.5 ms, M bands, L frames of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.training.channel import Codec, coded
from model_server.training.clip import PCM
from model_server.training.mouth import VoiceTable
from model_server.training.voice_judge import FOLDED, HISS, Judge, judges

HOP, WINDOW, FFT = 200, 400, 512
HOP_S = HOP / MODEL_HZ
BANDS, LOW_HZ, HIGH_HZ = 24, 200.0, 3400.0
FLOOR = 3.2
"""log10 of the power of a band: beneath it lies the noise of G.711."""
WORD_COST, CUT_COST = 12.0, 100.0
"""What a word has to explain before it is believed, where a spoken one explains some thousands; one that is cut
has to explain more, since a whole word can begin as a longer one does: "nine", "ninety"."""
SOUNDING_RMS = 120.0
"""-49 dBFS over 10 ms; the comfort sound and codecs' noise are below 40."""

Frames = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word that was heard."""

    word: str
    """Without the `say:`."""
    start_s: float
    end_s: float


class Reader:
    """Knows the sounds of one voice as a telephone brings them."""

    def __init__(self, table: VoiceTable) -> None:
        self._filters = _filters()
        self._words = []
        for token, row in table.rows.items():
            frames = self._frames(coded(table.sounds[row], Codec.MULAW))
            turns = table.turns(row)
            for turn in range(1, turns + 1):
                length = turn * TURN_SAMPLES // HOP
                cost = WORD_COST if turn == turns else CUT_COST
                self._words.append((token.removeprefix("say:"), frames[:length], cost))

    def read(self, pcm: PCM) -> tuple[Spoken, ...]:
        """The words in int16 [n] at 16 kHz."""
        frames = self._frames(pcm)
        count = len(frames)
        power = np.concatenate([[0.0], np.cumsum(np.sum(frames * frames, 1))])
        ending: dict[int, list[tuple[int, float, str]]] = {}
        for word, template, cost in self._words:
            length = len(template)
            if length > count:
                continue
            # what the word leaves unexplained, less what silence would: the power of the stretch
            gain = _matched(frames, template)
            beyond = np.sum(template * template) - 2 * gain + cost
            for start in np.flatnonzero(beyond < 0):
                ending.setdefault(int(start) + length, []).append((length, float(beyond[start]), word))
        best = np.zeros(count + 1)
        chosen: list[tuple[int, str]] = [(0, "")] * (count + 1)
        for at in range(1, count + 1):
            silence = power[at] - power[at - 1]
            best[at], chosen[at] = best[at - 1] + silence, (1, "")
            for length, left, word in ending.get(at, ()):
                total = best[at - length] + left + power[at] - power[at - length]
                if total < best[at]:
                    best[at], chosen[at] = total, (length, word)
        return tuple(_followed(chosen, count))

    def _frames(self, pcm: PCM) -> Frames:
        """[T, M], 0 where it is silent."""
        padded = np.pad(pcm.astype(np.float64), (WINDOW // 2, WINDOW))
        pieces = sliding_window_view(padded, WINDOW)[: len(pcm) : HOP] * np.hanning(WINDOW)
        spectrum = np.abs(np.fft.rfft(pieces, FFT, axis=1)) ** 2 / WINDOW
        bands: Frames = np.maximum(np.log10(spectrum @ self._filters + 1.0) - FLOOR, 0.0)
        return bands


def onset_s(pcm: PCM, spoken: Spoken) -> float:
    """The first sound of a word: in front of it there are up to 10 ms and soft consonants."""
    loud = sounding(pcm[round(spoken.start_s * MODEL_HZ) : round(spoken.end_s * MODEL_HZ)])
    return spoken.start_s + (int(loud.argmax()) / 100 if loud.any() else 0.0)


def _matched(frames: Frames, template: Frames) -> Frames:
    """[T - L + 1]: the inner product of the template with each stretch of frames, by Fourier transform."""
    size = 1 << (len(frames) + len(template)).bit_length()
    spectrum = np.fft.rfft(frames, size, axis=0) * np.conj(np.fft.rfft(template, size, axis=0))
    product: Frames = np.fft.irfft(spectrum.sum(1), size)[: len(frames) - len(template) + 1]
    return product


def _followed(chosen: Sequence[tuple[int, str]], count: int) -> list[Spoken]:
    found = []
    while count > 0:
        length, word = chosen[count]
        if word:
            found.append(Spoken(word, (count - length) * HOP_S, count * HOP_S))
        count -= length
    return found[::-1]


def _filters() -> Frames:
    """[FFT / 2 + 1, M]: triangles, evenly spaced in log frequency."""
    hz = np.fft.rfftfreq(FFT, 1 / MODEL_HZ)
    edges = np.geomspace(LOW_HZ, HIGH_HZ, BANDS + 2)
    rising = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles / np.maximum(triangles.sum(0), 1.0)


def sounding(pcm: PCM) -> npt.NDArray[np.bool_]:
    """bool [n / 160]: whether there is sound in each 10 ms."""
    count = len(pcm) // 160
    level = np.sqrt(np.mean(pcm[: count * 160].reshape(-1, 160).astype(np.float32) ** 2, 1))
    loud: npt.NDArray[np.bool_] = level > SOUNDING_RMS
    return loud


class Stranger:
    """pocketsphinx at the other end of the line: hears each word of our voice alone."""

    def __init__(self) -> None:
        self._judges: dict[str, Judge] = judges()
        self._rng = np.random.default_rng(0)

    def understands(self, pcm: PCM, spoken: Spoken, telephone: bool = True) -> bool:
        """Whether it takes this stretch of int16 [n], which came over the line, for the same word."""
        start, end = (round(at * MODEL_HZ) for at in (spoken.start_s, spoken.end_s))
        came = np.pad(pcm[max(0, start) : end], MODEL_HZ * 45 // 100).astype(np.float64)
        if telephone:
            came[::2] *= 1 + FOLDED
            came[1::2] *= 1 - FOLDED
        came += self._rng.standard_normal(len(came)) * HISS
        token = f"say:{spoken.word}"
        return self._judges[token].hears(np.clip(came, -32768, 32767).astype(np.int16)) == token
