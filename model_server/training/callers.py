"""How callers say digits: their rhythms, and the other things that they do.

| rhythm | gaps between digits |
|---|---|
| fluent | none, joined, or 0 .. 0.2 s; no pauses |
| steady | every one the same, 0.3 .. 1.1 s, +-12 % |
| grouped | as fluent within groups of 2..4, the same pause between them, 0.35 .. 1.15 s, +-10 % |
| uneven | anything up to 1.2 s: only where the model knows how many digits there will be |

Voices of the family `fluent` have no digits alone: they are fluent or grouped.

Recorded callers said one digit at a time. In one breath people say them 0.8 to 1.6 times as fast, and
without their ends: a *joined* digit loses up to a sixth of itself at either end and fades into the next one.
The last one before a pause is often *drawn out*, up to twice as long (final lengthening: Wightman et al.,
JASA 91, 1992).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from media.timebase import MODEL_HZ
from model_server.training.clip import Clip, Floats, Word, faded
from model_server.training.perturb import Change, perturbed, stretched
from model_server.training.stage import Stage

FLUENT = "fluent"
"""The family of the voices that say several digits in one breath and nothing else."""
RHYTHMS = ("fluent", "steady", "grouped", "uneven")
JOINED = 0.6
"""Of the digits in one breath."""
REPEATED = 0.12
"""Of the digits within a string are the one before once more, besides those that are so by chance."""
DRAWN_OUT = 0.4
"""Of the digits in one breath that end it."""
_LOST, _FADE_SAMPLES = 0.16, MODEL_HZ * 25 // 1000
_SLOW_SAMPLES = MODEL_HZ * 300 // 1000
"""A digit that is longer than this can be said faster."""


def seconds(stage: Stage, low: float, high: float) -> int:
    """Samples of a time drawn between the two."""
    return int(stage.rng.uniform(low, high) * MODEL_HZ)


def says_digits(stage: Stage, count: int, at: int, counted: bool) -> int:
    """Places so many digits of the stage's voice from sample `at` on; returns where the last one ends."""
    rng = stage.rng
    chances = [0.35, 0.15, 0.3, 0.2] if counted else [0.4, 0.25, 0.35, 0.0]
    if stage.voice.family == FLUENT:
        chances = [0.6, 0.0, 0.4, 0.0]
    rhythm = RHYTHMS[int(rng.choice(4, p=chances))]
    in_one_breath = rhythm in {"fluent", "grouped"}
    pace = float(rng.uniform(0.8, 1.6) if in_one_breath else rng.uniform(0.7, 1.1))
    pause, group, left = float(rng.uniform(0.35, 1.15)), int(rng.integers(2, 5)), count
    in_group = group
    while left > 0:
        alone = rhythm == "steady"
        most = 1 if alone else min(left, in_group if rhythm == "grouped" else 5)
        again = stage.said[-1].label if left < count and rng.random() < REPEATED else None
        drawn = (
            stage.bank.word(rng, again, stage.voice) if again else stage.bank.digits(rng, stage.voice, most)
        )
        clip = hurried(drawn, pace)
        if in_one_breath:
            clip = joined(clip, *(float(part) for part in rng.uniform(0.0, _LOST, 2)))
        left -= len(clip.words)
        in_group -= len(clip.words)
        ends = left <= 0 or (rhythm == "grouped" and in_group <= 0)
        if in_one_breath and ends and rng.random() < DRAWN_OUT:
            clip = drawn_out(clip, float(rng.uniform(1.1, 2.0)))
        at = stage.place(clip, at)
        if rhythm == "grouped" and in_group <= 0:
            gap, in_group = pause * rng.uniform(0.9, 1.1), group
        elif rhythm == "steady":
            gap = max(0.3, pause * 0.95) * rng.uniform(0.88, 1.12)
        elif in_one_breath:
            gap = 0.0 if rng.random() < JOINED else rng.uniform(0.0, 0.2)
        else:
            gap = rng.uniform(0.0, 1.2)
        at += int(gap * MODEL_HZ)
    return stage.said[-1].end_samples


def hurried(clip: Clip, pace: float) -> Clip:
    """The clip said that much faster, as far as its words are long enough for it, or slower."""
    spoken = clip.words[-1].end_samples - clip.words[0].start_samples
    pace = min(pace, max(1.0, spoken / len(clip.words) / _SLOW_SAMPLES))
    return perturbed(clip, Change(pace=pace)) if abs(pace - 1) > 0.05 else clip


def joined(clip: Clip, before: float, after: float) -> Clip:
    """The clip without these shares of its first and its last word, and faded where it was cut."""
    first, last = clip.words[0], clip.words[-1]
    start = first.start_samples + int(before * (first.end_samples - first.start_samples))
    end = last.end_samples - int(after * (last.end_samples - last.start_samples))
    at, stop = max(0, start - _FADE_SAMPLES), min(len(clip.pcm), end + _FADE_SAMPLES)
    words = tuple(
        Word(word.label, max(start, word.start_samples) - at, min(end, word.end_samples) - at)
        for word in clip.words
    )
    return Clip(faded(clip.pcm[at:stop], 2 * _FADE_SAMPLES), words, clip.speaker, clip.source)


def drawn_out(clip: Clip, longer: float) -> Clip:
    """The clip with its last word that many times as long."""
    last = clip.words[-1]
    said = clip.pcm[last.start_samples : last.end_samples].astype(np.float32)
    slow = stretched(said, int(len(said) * longer)).clip(-32768, 32767).astype(np.int16)
    pcm = np.concatenate([clip.pcm[: last.start_samples], slow, clip.pcm[last.end_samples :]])
    word = Word(last.label, last.start_samples, last.start_samples + len(slow))
    return Clip(pcm, (*clip.words[:-1], word), clip.speaker, clip.source)


def talks(stage: Stage, words: int) -> Iterator[None]:
    """Says things that mean nothing to us."""
    for _ in range(words):
        clip = stage.bank.other(stage.rng)
        end = stage.place(clip, stage.now + seconds(stage, 0.0, 0.3))
        yield from stage.until(end)


def says_stop(stage: Stage) -> Iterator[None]:
    """Says stop now, and waits for the silence."""
    clip = stage.bank.word(stage.rng, "stop", stage.voice if stage.rng.random() < 0.5 else None)
    end = stage.place(clip, stage.now + seconds(stage, 0.0, 0.2))
    yield from stage.until(end + MODEL_HZ // 2)


def cough(rng: np.random.Generator) -> Floats:
    """One to three bursts of shaped noise, float32 [n], about as loud as speech."""
    bursts = []
    for _ in range(int(rng.integers(1, 4))):
        length = int(rng.uniform(0.08, 0.3) * MODEL_HZ)
        noise = rng.standard_normal(length + 64, dtype=np.float32)
        width = int(rng.integers(2, 24))
        smooth = np.convolve(noise, np.ones(width, np.float32) / np.sqrt(width), "same")[:length]
        attack = np.minimum(1.0, np.arange(length, dtype=np.float32) / 160)
        bursts.append(smooth * attack * np.exp(-np.arange(length, dtype=np.float32) / (length / 3)))
        bursts.append(np.zeros(int(rng.uniform(0.03, 0.25) * MODEL_HZ), np.float32))
    return (np.concatenate(bursts) * 4000).astype(np.float32)
