"""Synthetic callers: Debian's espeak-ng, flite and festival with many settings, and mixtures of Kokoro's voices.

Every voice speaks a script of its own (`lines.script`), and comes back as clips whose word times are those of the
synthesiser, cut to the speech. Seeded: the same seed gives the same voices saying the same lines, and the same
sound too in a process that has not used espeak-ng before.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from model_server.training import espeak, festival, flite, kokoro
from model_server.training.clip import MARGIN_SAMPLES, PCM, Clip, Word, faded, speech_span
from model_server.training.corpus import Part
from model_server.training.lines import Line, script, strings

ACCENTS = (
    *("en", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029"),
    "en-us-nyc",
)
_NOT_PEOPLE = (
    "robo",
    "Robot",
    "whisper",
    "Demonic",
    "croak",
    "Tweaky",
    "fast",
    "Storm",
    "announcer",
    "klatt6",
)
PACKAGES = ("espeak-ng", "flite", "festival", *festival.PACKAGES.values())


def missing() -> list[str]:
    """Debian packages that synthetic callers need and that are not installed."""
    absent = []
    if ctypes.util.find_library("espeak-ng") is None and not espeak.variants():
        absent.append("espeak-ng")
    absent += [name for name in (flite.COMMAND, festival.COMMAND) if shutil.which(name) is None]
    voices = festival.installed()
    return absent + [package for voice, package in festival.PACKAGES.items() if voice not in voices]


def require(neural: bool = False) -> None:
    """Raises RuntimeError, naming the packages, when a synthesiser is absent (`neural`: Kokoro as well)."""
    absent = missing()
    if absent:
        raise RuntimeError(f"synthetic callers need Debian packages: apt-get install {' '.join(absent)}")
    if neural and kokoro.missing():
        raise RuntimeError(f"synthetic callers need neural voices: {kokoro.INSTALL}")


def voices(
    part: Part, seed: int, espeak_voices: int, others: int, neural: int, fluent: int = 0
) -> Iterator[list[Clip]]:
    """The clips of one voice after another: `espeak_voices` of espeak-ng, `neural` mixtures of Kokoro's and
    `fluent` more that say nothing but strings of digits in one breath, `others` settings of each other voice.

    A variant of espeak-ng's is in one part only (an eighth each for validation and test).
    """
    require(neural + fluent > 0)
    yield from _espeak_voices(part, np.random.default_rng([seed, 1]), espeak_voices)
    yield from _flite_voices(np.random.default_rng([seed, 2]), others)
    yield from _festival_voices(np.random.default_rng([seed, 3]), others)
    yield from _neural_voices(np.random.default_rng([seed, 4]), neural, fluent=False)
    yield from _neural_voices(np.random.default_rng([seed, 5]), fluent, fluent=True)


def cut(pcm: PCM, starts: Sequence[int], line: Line, speaker: str) -> Clip | None:
    """A rendered line as a clip: cut to its speech, each word from its start to where its sound ends.

    None when the synthesiser marked another number of words than the line has.
    """
    if len(starts) != sum(len(label.split()) for label in line):
        return None
    first, last = speech_span(pcm)
    if last <= first:
        return None
    begins, at = [], 0
    for label in line:
        begins.append(max(starts[at], first))
        at += len(label.split())
    front, back = max(0, first - MARGIN_SAMPLES), min(len(pcm), last + MARGIN_SAMPLES)
    words = []
    for label, begin, end in zip(line, begins, [*begins[1:], last], strict=True):
        if end - begin < 800:
            return None
        words.append(Word(label, begin - front, end - front))
    return Clip(faded(pcm[front:back]), tuple(words), speaker, speaker)


def part_of_variant(name: str) -> Part:
    """Where a voice variant of espeak-ng belongs, by its name alone."""
    eighth = hashlib.sha256(name.encode()).digest()[0] % 8
    return {0: Part.VALIDATION, 1: Part.TEST}.get(eighth, Part.TRAIN)


def _espeak_voices(part: Part, rng: np.random.Generator, count: int) -> Iterator[list[Clip]]:
    library = espeak.Espeak()
    people = [name for name in espeak.variants() if not any(odd in name for odd in _NOT_PEOPLE)]
    ours = [name for name in people if part_of_variant(name) is part]
    names = [f"{accent}+{variant}" for accent in ACCENTS for variant in ours]
    for name in rng.choice(names, count, replace=count > len(names)).tolist():
        pace, pitch, pitch_range = (int(rng.integers(*limits)) for limits in ((120, 230), (20, 85), (25, 80)))
        if not library.voice(name, pace, pitch, pitch_range):
            continue
        speaker = f"espeak:{name}:{pace}:{pitch}"
        clips = []
        for line in script(rng, 20, 8, 6):
            spoken = [word for label in line for word in label.split()]
            clips.append(cut(*library.speak(spoken), line, speaker))
        yield [clip for clip in clips if clip is not None]


def _flite_voices(rng: np.random.Generator, settings: int) -> Iterator[list[Clip]]:
    for voice in flite.VOICES:
        for _ in range(settings):
            stretch, pitch_hz = float(rng.uniform(0.75, 1.3)), int(rng.integers(85, 190))
            speaker = f"flite:{voice}:{stretch:.2f}:{pitch_hz}"
            clips = []
            for line in script(rng, 16, 5, 4):
                spoken = [word for label in line for word in label.split()]
                clips.append(cut(*flite.speak(voice, spoken, stretch, pitch_hz), line, speaker))
            yield [clip for clip in clips if clip is not None]


def _festival_voices(rng: np.random.Generator, settings: int) -> Iterator[list[Clip]]:
    for voice in festival.installed():
        for _ in range(settings):
            stretch = float(rng.uniform(0.75, 1.3))
            speaker = f"festival:{voice}:{stretch:.2f}"
            lines = script(rng, 24, 10, 8)
            asked = [([word for label in line for word in label.split()], stretch) for line in lines]
            rendered = festival.speak(voice, asked)
            clips = [cut(*sound, line, speaker) for sound, line in zip(rendered, lines, strict=True)]
            yield [clip for clip in clips if clip is not None]


def _neural_voices(rng: np.random.Generator, count: int, fluent: bool) -> Iterator[list[Clip]]:
    if count == 0:
        return
    network = kokoro.Kokoro()
    slowest, fastest = (0.9, 1.45) if fluent else (0.85, 1.35)
    for _ in range(count):
        name, style, accent = kokoro.mixture(network.styles, rng)
        lines = strings(rng, 5) if fluent else script(rng, 14, 5, 3)
        speed = float(rng.uniform(slowest, fastest))
        speaker = f"{name.replace('kokoro', 'fluent') if fluent else name}:{speed:.2f}"
        clips = network.speak(lines, style, accent, speed, speaker)
        if clips:
            yield clips
