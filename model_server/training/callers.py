"""How callers say digits: their rhythms, and the other things that they do.

| rhythm | gaps between digits |
|---|---|
| fluent | 0 .. 0.2 s, no pauses |
| steady | every one the same, 0.3 .. 1.1 s, +-12 % |
| grouped | 0 .. 0.15 s within groups of 2..4, the same pause between them, 0.35 .. 1.15 s, +-10 % |
| uneven | anything up to 1.2 s: only where the model knows how many digits there will be |
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from media.timebase import MODEL_HZ
from model_server.training.clip import Floats
from model_server.training.stage import Stage

RHYTHMS = ("fluent", "steady", "grouped", "uneven")


def seconds(stage: Stage, low: float, high: float) -> int:
    """Samples of a time drawn between the two."""
    return int(stage.rng.uniform(low, high) * MODEL_HZ)


def says_digits(stage: Stage, count: int, at: int, counted: bool) -> int:
    """Places so many digits of the stage's voice from sample `at` on; returns where the last one ends."""
    rng = stage.rng
    chances = [0.2, 0.2, 0.3, 0.3] if counted else [0.35, 0.3, 0.35, 0.0]
    rhythm = RHYTHMS[int(rng.choice(4, p=chances))]
    pause, group, left = float(rng.uniform(0.35, 1.15)), int(rng.integers(2, 5)), count
    in_group = group
    while left > 0:
        alone = rhythm == "steady"
        most = 1 if alone else min(left, in_group if rhythm == "grouped" else 4)
        clip = stage.bank.digits(rng, stage.voice, most)
        at = stage.place(clip, at)
        left -= len(clip.words)
        in_group -= len(clip.words)
        if rhythm == "grouped" and in_group <= 0:
            gap, in_group = pause * rng.uniform(0.9, 1.1), group
        elif rhythm == "steady":
            gap = max(0.3, pause * 0.95) * rng.uniform(0.88, 1.12)
        else:
            gap = rng.uniform(0.0, {"fluent": 0.2, "grouped": 0.15, "uneven": 1.2}[rhythm])
        at += int(gap * MODEL_HZ)
    return stage.said[-1].end_samples


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
