"""Simple camera pictures with changes or repetitions to count: 320x240, one a turn, drawn when asked for.

Changes: things on a table appear, vanish or move from one picture to the next, and then stand still. Repetitions: a
weight swings, or a bar goes up and down; one is complete when it has come three quarters of its way back: that can
be seen. In which picture it is where it began cannot, for it is slow there, by less than a pixel from one to the
next; who is to tell it goes by the rhythm, and counts on when the weight has come to rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from media.chunk import RGB, VIDEO_SIZE
from media.timebase import TURN_MS

WIDTH, HEIGHT = VIDEO_SIZE
MAX_COUNT = 20
_BACK = 5 / 6
"""Of a period: (1 - cos) / 2 is a quarter."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A box in the picture."""

    x: float
    y: float
    width: int
    height: int
    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The camera of one conversation: one picture a turn."""

    scenes: Sequence[tuple[Thing, ...]]
    """What stands in the picture of each turn; then the camera is off."""
    changes: dict[int, int]
    """Turn -> changes or repetitions that its picture completes."""
    background: RGB
    seed: int
    noise: int = 6
    """Largest deviation of a pixel from picture to picture."""

    def picture(self, turn: int) -> RGB:
        """uint8 [240, 320, 3]."""
        picture = self.background.copy()
        for thing in self.scenes[turn]:
            top, left = max(0, int(thing.y)), max(0, int(thing.x))
            picture[top : max(0, int(thing.y) + thing.height), left : max(0, int(thing.x) + thing.width)] = (
                thing.colour
            )
        rng = np.random.default_rng([self.seed, turn])
        grain = rng.integers(0, 2 * self.noise + 1, (HEIGHT // 2, WIDTH // 2, 1), np.uint8)
        noisy = picture.astype(np.int16) + grain.repeat(2, 0).repeat(2, 1) - self.noise
        return np.clip(noisy, 0, 255).astype(np.uint8)


def drawn(rng: np.random.Generator, turns: int) -> Pictures:
    """Changes or repetitions, evenly, at most 20 of them, with rests between."""
    scenes, changes = (_table if rng.random() < 0.5 else _swing)(rng, turns)
    return Pictures(scenes, changes, _background(rng), int(rng.integers(1 << 31)), int(rng.integers(1, 12)))


def _table(rng: np.random.Generator, turns: int) -> tuple[list[tuple[Thing, ...]], dict[int, int]]:
    """Something is put down, taken away or moved every 0.8 to 4 s."""
    things = [_thing(rng) for _ in range(int(rng.integers(0, 4)))]
    scenes: list[tuple[Thing, ...]] = []
    changes: dict[int, int] = {}
    due = int(rng.integers(4, 15))
    for turn in range(turns):
        if turn == due and len(changes) < MAX_COUNT:
            what = rng.random()
            if what < 0.35 and things or len(things) >= 5:
                things.pop(int(rng.integers(len(things))))
            elif what < 0.55 and things:
                things[int(rng.integers(len(things)))] = _thing(rng)
            else:
                things.append(_thing(rng))
            changes[turn] = 1
            due += int(rng.integers(4, 21))
        scenes.append(tuple(things))
    return scenes, changes


def _swing(rng: np.random.Generator, turns: int) -> tuple[list[tuple[Thing, ...]], dict[int, int]]:
    """Periods of 0.8 to 3 s, in bouts of 2 to 8 with rests of 2 to 5 s."""
    weight, still = _thing(rng), tuple(_thing(rng) for _ in range(int(rng.integers(0, 3))))
    along_x, reach = rng.random() < 0.5, float(rng.uniform(30, 90))
    scenes: list[tuple[Thing, ...]] = []
    changes: dict[int, int] = {}
    turn = int(rng.integers(3, 12))
    phases = np.zeros(turns)
    while turn < turns and len(changes) < MAX_COUNT:
        period = float(rng.uniform(800, 3000)) / TURN_MS
        for _ in range(min(int(rng.integers(2, 9)), MAX_COUNT - len(changes))):
            last = turn + round(period)
            for at in range(turn, min(last, turns)):
                phases[at] = (at - turn + 1) / (last - turn)
            complete = turn + math.ceil(_BACK * (last - turn)) - 1
            if complete < turns:
                changes[complete] = 1
            turn = last
        turn += int(rng.integers(10, 26))
    for phase in phases:
        away = reach * (1 - np.cos(2 * np.pi * phase)) / 2
        x, y = weight.x + (away if along_x else 0), weight.y + (0 if along_x else away)
        scenes.append((*still, Thing(x, y, weight.width, weight.height, weight.colour)))
    return scenes, changes


def _thing(rng: np.random.Generator) -> Thing:
    width, height = int(rng.integers(20, 80)), int(rng.integers(20, 100))
    red, green, blue = rng.integers(0, 256, 3).tolist()
    x, y = rng.integers(0, (WIDTH - width, HEIGHT - height)).tolist()
    return Thing(x, y, width, height, (red, green, blue))


def _background(rng: np.random.Generator) -> RGB:
    """A slope of light between two colours, with a table's edge."""
    top, bottom = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    slope = np.linspace(0, 1, HEIGHT)[:, None]
    rows = (top * (1 - slope) + bottom * slope).astype(np.uint8)
    picture = np.repeat(rows[:, None], WIDTH, axis=1)
    edge = int(rng.integers(HEIGHT // 2, HEIGHT))
    picture[edge:] //= 2
    return picture
