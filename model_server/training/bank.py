"""The word bank: all clips of a part of the data, perturbed and ready, in one file that is mapped, not read.

    pcm.npy     int16 [N]      all clips behind one another, each with its speech at `SPEECH_RMS`
    clips.npy   int64 [C, 4]   first sample, last, voice, first row in words
    words.npy   int64 [W, 3]   label, start and end within the clip
    index.json  the labels, and of each voice its name and family

A *voice* is one speaker under one change of pitch, tract and pace; the small digits of Speech Commands, where most
speakers said one or two, are pooled into voices that have them all. A *family* is what voices are drawn by.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_server.training.clip import PCM, Clip, Word, faded
from model_server.training.lines import SPOKEN_DIGITS, token_of

SPEECH_RMS = 3000.0
"""-20.8 dBFS."""
_PEAK = 30000.0
_ASKS = {"plus", "minus", "times", "how many"}
_DIGITS = frozenset(SPOKEN_DIGITS)


@dataclass(frozen=True, slots=True)
class Voice:
    """One caller to be."""

    name: str
    family: str
    digits: dict[str, list[int]] = field(default_factory=dict)
    """First digit -> clips that hold digits alone."""
    words: dict[str, list[int]] = field(default_factory=dict)
    """Label -> clips of that word alone."""


class WordBank:
    """Clips by what they say and who says it."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self._labels: list[str] = index["labels"]
        self._pcm: PCM = np.load(folder / "pcm.npy", mmap_mode="r")
        self._clips: npt.NDArray[np.int64] = np.load(folder / "clips.npy")
        self._words: npt.NDArray[np.int64] = np.load(folder / "words.npy")
        self.voices = [Voice(name, family) for name, family in index["voices"]]
        self.by_label: dict[str, list[int]] = {}
        """Clips of that word alone, of any voice."""
        self._questions: list[int] = []
        self._requests: list[int] = []
        self._others: list[int] = []
        self._families: dict[str, list[int]] = {}
        for at in range(len(self._clips)):
            self._file(at)
        for at, voice in enumerate(self.voices):
            if voice.digits:
                self._families.setdefault(voice.family, []).append(at)

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def families(self) -> dict[str, int]:
        """Voices that say digits, by family."""
        return {family: len(voices) for family, voices in sorted(self._families.items())}

    def clip(self, at: int) -> Clip:
        """The clip of that number, its samples a view."""
        first, last, voice, _ = (int(value) for value in self._clips[at])
        words = tuple(Word(self._labels[a], int(b), int(c)) for a, b, c in self._rows(at))
        return Clip(self._pcm[first:last], words, self.voices[voice].name, self.voices[voice].family)

    def voice(self, rng: np.random.Generator, weights: dict[str, float]) -> Voice:
        """A voice that says digits: first the family by weight (those that are here), then any of it."""
        families = [family for family in self._families if weights.get(family, 0.0) > 0]
        if not families:
            raise ValueError(f"none of the families {sorted(weights)} is in the bank: it has {self.families}")
        chances = np.array([weights[family] for family in families])
        family = families[int(rng.choice(len(families), p=chances / chances.sum()))]
        return self.voices[_one(rng, self._families[family])]

    def digits(self, rng: np.random.Generator, voice: Voice, at_most: int) -> Clip:
        """One to `at_most` digits in one breath of that voice, the first one drawn evenly of those it has.

        Where the voice says it with too many others, the clip ends after the first of them.
        """
        first = sorted(voice.digits)[int(rng.integers(len(voice.digits)))]
        fitting = [at for at in voice.digits[first] if self._length(at) <= at_most]
        clip = self.clip(_one(rng, fitting or voice.digits[first]))
        if len(clip.words) <= at_most:
            return clip
        words = clip.words[:at_most]
        return Clip(faded(clip.pcm[: words[-1].end_samples]), words, clip.speaker, clip.source)

    def word(self, rng: np.random.Generator, label: str, voice: Voice | None = None) -> Clip:
        """That word alone, by that voice where it has it."""
        own = voice.words.get(label) if voice is not None else None
        return self.clip(_one(rng, own or self.by_label[label]))

    def question(self, rng: np.random.Generator) -> Clip:
        """`three plus four` or `how many birds`, in one breath."""
        return self.clip(_one(rng, self._questions))

    def request(self, rng: np.random.Generator) -> Clip:
        """`every five seconds`, in one breath."""
        return self.clip(_one(rng, self._requests))

    def other(self, rng: np.random.Generator) -> Clip:
        """Words that mean nothing to us."""
        return self.clip(_one(rng, self._others))

    def _file(self, at: int) -> None:
        labels = [self._labels[row[0]] for row in self._rows(at)]
        voice = self.voices[int(self._clips[at, 2])]
        if all(label in _DIGITS for label in labels):
            voice.digits.setdefault(labels[0], []).append(at)
        if len(labels) == 1:
            voice.words.setdefault(labels[0], []).append(at)
            self.by_label.setdefault(labels[0], []).append(at)
        if not any(token_of(label) for label in labels):
            self._others.append(at)
        elif len(labels) > 1 and _ASKS & set(labels):
            self._questions.append(at)
        elif len(labels) > 1 and labels[0] == "every":
            self._requests.append(at)

    def _rows(self, at: int) -> npt.NDArray[np.int64]:
        last = int(self._clips[at + 1, 3]) if at + 1 < len(self._clips) else len(self._words)
        return self._words[int(self._clips[at, 3]) : last]

    def _length(self, at: int) -> int:
        return len(self._rows(at))


def write(folder: Path, voices: Iterable[tuple[str, str, Sequence[Clip]]]) -> int:
    """Stores (name, family, clips) of each voice in an existing folder; returns how many clips there are."""
    labels: dict[str, int] = {}
    names: list[tuple[str, str]] = []
    clips: list[tuple[int, int, int, int]] = []
    words: list[tuple[int, int, int]] = []
    sound: list[PCM] = []
    at = 0
    for name, family, said in voices:
        for clip in said:
            sound.append(_level(clip))
            clips.append((at, at + len(clip.pcm), len(names), len(words)))
            at += len(clip.pcm)
            for word in clip.words:
                label = labels.setdefault(word.label, len(labels))
                words.append((label, word.start_samples, word.end_samples))
        names.append((name, family))
    np.save(folder / "pcm.npy", np.concatenate(sound))
    np.save(folder / "clips.npy", np.array(clips, np.int64))
    np.save(folder / "words.npy", np.array(words, np.int64))
    (folder / "index.json").write_text(json.dumps({"labels": list(labels), "voices": names}))
    return len(clips)


def _level(clip: Clip) -> PCM:
    """The clip with its speech at SPEECH_RMS, or as near as its peaks allow."""
    sound = clip.pcm.astype(np.float32)
    start, end = clip.words[0].start_samples, clip.words[-1].end_samples
    rms = float(np.sqrt(np.mean(sound[start:end] ** 2))) + 1e-3
    gain = min(SPEECH_RMS / rms, _PEAK / (float(np.abs(sound).max()) + 1e-3))
    return (sound * gain).astype(np.int16)


def _one(rng: np.random.Generator, of: Sequence[int]) -> int:
    return of[int(rng.integers(len(of)))]
