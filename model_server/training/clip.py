"""A piece of recorded or synthetic speech whose words and times are known.

Legend: all audio is int16 mono at 16 kHz; times inside a clip are samples from its first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media.timebase import MODEL_HZ

PCM = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]

FRAME_SAMPLES = MODEL_HZ // 100
"""10 ms: the resolution of `speech_span`."""
MARGIN_SAMPLES = MODEL_HZ * 2 // 25
"""80 ms kept on either side of the speech: soft onsets and endings lie below any threshold."""
_BROKEN_OFF_DB = 20.0
_BELOW_PEAK_DB, _ABOVE_FLOOR_DB, _BRIDGED_FRAMES, _CLICK_FRAMES = 42.0, 6.0, 16, 3


@dataclass(frozen=True, slots=True)
class Word:
    """One word inside a clip."""

    label: str
    """As it is written: `seven`, `oh`, `stop`, `how many`."""
    start_samples: int
    end_samples: int

    def __post_init__(self) -> None:
        assert 0 <= self.start_samples < self.end_samples, self


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Speech of one speaker without a pause in it: a word, or several in one breath."""

    pcm: PCM
    """int16 [n], 16 kHz."""
    words: tuple[Word, ...]
    speaker: str
    source: str
    """Where it comes from, for the reader: a path of the corpus, or a synthesiser and its voice."""

    def __post_init__(self) -> None:
        assert self.pcm.dtype == np.int16 and self.pcm.ndim == 1, self.pcm.dtype
        assert all(word.end_samples <= len(self.pcm) for word in self.words), self.source


def speech_span(pcm: PCM) -> tuple[int, int]:
    """First and last sample of the speech in `pcm`, by energy, to 10 ms; (0, 0) where there is none.

    A frame is speech when it lies within 42 dB of the loudest and 6 dB above the quietest tenth. The stretch
    around the loudest frame is taken, over gaps of up to 150 ms (the closure of a plosive); a click of 30 ms
    beside it is not.
    """
    frames = len(pcm) // FRAME_SAMPLES
    if frames < 2:
        return 0, 0
    blocks = pcm[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES).astype(np.float32)
    level_db = 10 * np.log10(np.mean(blocks * blocks, axis=1) + 1.0)
    peak, floor = float(level_db.max()), float(np.percentile(level_db, 10))
    if peak < 20:
        return 0, 0
    loud = level_db > min(max(peak - _BELOW_PEAK_DB, floor + _ABOVE_FLOOR_DB), peak - 6)
    runs = _runs(loud)
    at = next(i for i, (start, end) in enumerate(runs) if start <= int(level_db.argmax()) < end)
    start, end = runs[at]
    for before, after in reversed(runs[:at]):
        if start - after > _BRIDGED_FRAMES or after - before < _CLICK_FRAMES:
            break
        start = before
    for before, after in runs[at + 1 :]:
        if before - end > _BRIDGED_FRAMES or after - before < _CLICK_FRAMES:
            break
        end = after
    return start * FRAME_SAMPLES, end * FRAME_SAMPLES


def trimmed(pcm: PCM, label: str, speaker: str, source: str) -> Clip | None:
    """A clip of one word, cut to its speech and 80 ms on either side; None when nothing is heard."""
    start, end = speech_span(pcm)
    if end - start < 8 * FRAME_SAMPLES:
        return None
    first, last = max(0, start - MARGIN_SAMPLES), min(len(pcm), end + MARGIN_SAMPLES)
    return Clip(faded(pcm[first:last]), (Word(label, start - first, end - first),), speaker, source)


def breaks_off(clip: Clip) -> bool:
    """Whether the recording of a `trimmed` clip ends in the middle of its last word: there is no margin behind it,
    and 20 to 10 ms before the end it is within 20 dB of its loudest."""
    frames = len(clip.pcm) // FRAME_SAMPLES
    if clip.words[-1].end_samples < len(clip.pcm) - FRAME_SAMPLES or frames < 3:
        return False
    ended = clip.pcm[len(clip.pcm) - frames * FRAME_SAMPLES :].reshape(frames, FRAME_SAMPLES)
    level_db = 10 * np.log10(np.mean(ended.astype(np.float32) ** 2, axis=1) + 1.0)
    return bool(level_db[-2] > level_db.max() - _BROKEN_OFF_DB)


def faded(pcm: PCM, samples: int = FRAME_SAMPLES) -> PCM:
    """The same with its edges faded in and out over 10 ms, so that a cut is not heard as a click."""
    out = pcm.astype(np.float32)
    ramp = np.linspace(0.0, 1.0, min(samples, len(pcm) // 2), dtype=np.float32)
    out[: len(ramp)] *= ramp
    out[len(out) - len(ramp) :] *= ramp[::-1]
    return out.astype(np.int16)


def _runs(on: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, end) of each stretch that is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], on, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
