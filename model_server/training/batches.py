"""Conversations as batches of positions for training, made as they are needed.

An example is named by (seed, number): any worker makes the same one, so a run resumes where it stopped and two
processes can share the work by taking every second number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from media.timebase import TURN_MS
from model_server.model.config import ModelConfig
from model_server.model.dmel import levels_of
from model_server.model.inputs import Conversations
from model_server.model.micro_turn import HEAR_POSITIONS, POSITION_SAMPLES, MicroTurn, Rows, truth_of
from model_server.model.patches import patches_of
from model_server.model.vocabulary import HEARD, ids_of
from model_server.training import corpus, synthesise
from model_server.training.bank import WordBank
from model_server.training.channel import Line
from model_server.training.conversation import Conversation, Scene, Surroundings, play, rendered
from model_server.training.corpus import DATA, Part
from model_server.training.masks import masked
from model_server.training.mouth import VoiceTable
from model_server.training.skills import (
    ask_for_help,
    correct,
    count,
    every,
    interpret,
    mixed,
    read_back,
    stop,
)
from model_server.training.stage import Said

SCENES: Mapping[str, Callable[[np.random.Generator], Scene]] = {
    "read back": read_back.scene,
    "stop": stop.scene,
    "correct": correct.scene,
    "interpret": interpret.scene,
    "every": every.scene,
    "ask for help": ask_for_help.scene,
    "mixed": mixed.scene,
    "count": count.scene,
}
SHARES = {
    "read back": 0.25,
    "stop": 0.12,
    "correct": 0.17,
    "interpret": 0.05,
    "every": 0.13,
    "ask for help": 0.08,
    "mixed": 0.09,
    "count": 0.11,
}
"""Of the conversations."""
SHORTENED = 0.75
"""Of the conversations with pictures, which have half as many positions more."""
PADDED_TO = 32
"""Conversations are filled up to a multiple of so many positions: the same shapes come again and again."""
HALVES = 2
NOTHING, OTHER_WORD = 0, 1
_MASKS = 1
"""Tells the generator of masks from that of the conversation."""
FRAME_CLASSES = 2 + HALVES * len(HEARD)
"""What may be said in 50 ms: nothing, a word that means nothing to us, or half of one that does."""
_FRAME_DELAY = POSITION_SAMPLES
_FRAME_CLASS = {token: 2 + HALVES * at for at, token in enumerate(HEARD)}


@dataclass(frozen=True, slots=True)
class Length:
    """Of conversations, in turns; drawn evenly between the two."""

    shortest: int = 16_000 // TURN_MS
    longest: int = 24_000 // TURN_MS


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is taught for a while: which conversations, how long, over how bad lines."""

    shares: Mapping[str, float]
    length: Length
    hardness: float = 1.0
    masks: bool = True
    """Whether parts of what is heard are taken away (`masks.py`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One conversation as the model takes it, T turns."""

    scene: str
    turns: tuple[MicroTurn, ...]
    voice: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    """int64 [T, 2]: row of the voice table and turns into it; (-1, 0): silence."""
    frames: np.ndarray[tuple[int], np.dtype[np.int64]]
    """int64 [4 T]: what the caller was saying in each 50 ms, 50 ms before."""
    seen: np.ndarray[tuple[int], np.dtype[np.int64]]
    """int64 [pictures]: 1 where one completes a change or a repetition."""
    moved: np.ndarray[tuple[int], np.dtype[np.int64]]
    """int64 [pictures]: 1 where anything is not as in the picture before."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Conversations laid out, and what they ought to sound like."""

    inputs: Conversations
    voice: Tensor
    """int64 [turns of all conversations, 2], as in `Example`: row i belongs to the i-th four `speak` positions."""
    frames: Tensor
    """int64 [hear positions of all conversations]: what the caller was saying, one of FRAME_CLASSES."""
    seen: Tensor
    """int64 [pictures of all conversations], as in `Example`, as is ..."""
    moved: Tensor
    scenes: tuple[str, ...]


class Source:
    """Makes conversations out of a word bank and our voice."""

    def __init__(
        self, bank: WordBank, table: VoiceTable, surroundings: Surroundings, config: ModelConfig
    ) -> None:
        self._bank, self._table, self._surroundings, self._config = bank, table, surroundings, config

    def conversation(
        self, seed: int, number: int, lesson: Lesson, scene: str | None = None, line: Line | None = None
    ) -> Conversation:
        """Conversation `number` of a seed, of the named scene or of one that the lesson draws."""
        rng = np.random.default_rng([seed, number])
        name = scene or _drawn(rng, lesson.shares)
        turns = int(rng.integers(lesson.length.shortest, lesson.length.longest + 1))
        if name == "count" and scene is None and rng.random() < SHORTENED:
            turns = max(1, turns * 3 // 5)
        chosen = count.scene(rng, turns) if name == "count" else SCENES[name](rng)
        score = play(chosen, self._bank, self._table, rng, turns)
        return rendered(score, self._table, rng, self._surroundings, line, lesson.hardness)

    def example(self, seed: int, number: int, lesson: Lesson) -> Example:
        """The same, as positions."""
        conversation = self.conversation(seed, number, lesson)
        rng = np.random.default_rng([seed, number, _MASKS]) if lesson.masks else None
        return example_of(conversation, self._config, rng)

    def batch(self, seed: int, number: int, size: int, lesson: Lesson) -> Batch:
        """Batch `number` of a seed, of `size` conversations."""
        return collated([self.example(seed, number * size + at, lesson) for at in range(size)], self._config)


def source_of(part: Part, table: VoiceTable, config: ModelConfig, data: Path = DATA) -> Source:
    """A source of the real data; the word bank is made first where it is not there."""
    bank = WordBank(synthesise.make(part, data=data))
    around = Part.TRAIN if part is Part.VALIDATION else part
    surroundings = Surroundings(
        list(corpus.noises(around, data).values()),
        corpus.rooms(around, data),
        list(corpus.background_speech(around, data)),
    )
    return Source(bank, table, surroundings, config)


def example_of(
    conversation: Conversation, config: ModelConfig, rng: np.random.Generator | None = None
) -> Example:
    """Sound to dMel levels, pictures to patches, tokens to ids; with a generator what is heard is masked."""
    count = len(conversation.turns)
    levels = levels_of(conversation.caller)
    heard = (levels if rng is None else masked(levels, rng)).reshape(count, HEAR_POSITIONS, -1)
    own = levels_of(conversation.own).reshape(count, HEAR_POSITIONS, -1)
    truth = truth_of(conversation.made_up).reshape(count, HEAR_POSITIONS)
    pictures = _patches(conversation, config)
    turns = tuple(
        MicroTurn(heard[t], own[t], truth[t], pictures[t], ids_of(turn.inject), ids_of(turn.say))
        for t, turn in enumerate(conversation.turns)
    )
    voice = np.array([turn.voice for turn in conversation.turns], np.int64)
    frames = frames_of(conversation.words, HEAR_POSITIONS * count)
    return Example(conversation.scene, turns, voice, frames, *_seen(conversation))


def frames_of(words: Sequence[Said], positions: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64 [positions]: the class of the word at the middle of each 50 ms, as it was 50 ms before.

    So late, half of what tells a word's sounds apart has been heard; words that overlap: the later one.
    """
    middles = np.arange(positions) * POSITION_SAMPLES + POSITION_SAMPLES // 2 - _FRAME_DELAY
    frames = np.full(positions, NOTHING, np.int64)
    for word in words:
        inside = (middles >= word.start_samples) & (middles < word.end_samples)
        later = middles[inside] * 2 >= word.start_samples + word.end_samples
        frames[inside] = OTHER_WORD if word.token is None else _FRAME_CLASS[word.token] + later
    return frames


def collated(examples: Sequence[Example], config: ModelConfig) -> Batch:
    """Examples behind one another, filled up to the longest and then to a multiple of PADDED_TO."""
    inputs = Conversations.of([example.turns for example in examples], config)
    rest = -inputs.kinds.shape[1] % PADDED_TO
    kinds, targets = (F.pad(rows, (0, rest), value=-1) for rows in (inputs.kinds, inputs.targets))
    return Batch(
        replace(inputs, kinds=kinds, targets=targets),
        torch.from_numpy(np.concatenate([example.voice for example in examples])),
        torch.from_numpy(np.concatenate([example.frames for example in examples])),
        torch.from_numpy(np.concatenate([example.seen for example in examples])),
        torch.from_numpy(np.concatenate([example.moved for example in examples])),
        tuple(example.scene for example in examples),
    )


def _drawn(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    names = [name for name, share in shares.items() if share > 0]
    chances = np.array([shares[name] for name in names])
    return names[int(rng.choice(len(names), p=chances / chances.sum()))]


def _seen(conversation: Conversation) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    """Whether a picture completes something, and whether anything moved in it."""
    pictures = conversation.pictures
    if pictures is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    scenes = pictures.scenes[: len(conversation.turns)]
    count = len(scenes)
    moved = [turn > 0 and scenes[turn] != scenes[turn - 1] for turn in range(count)]
    return np.array([turn in pictures.changes for turn in range(count)], np.int64), np.array(moved, np.int64)


def _patches(conversation: Conversation, config: ModelConfig) -> list[Rows | None]:
    """Of each turn; None where the camera is off."""
    count = len(conversation.turns)
    if conversation.pictures is None:
        return [None] * count
    shown = range(min(count, len(conversation.pictures.scenes)))
    pictures = [conversation.pictures.picture(turn) for turn in shown]
    before = [None, *pictures[:-1]]
    seen = [patches_of(a, b, config).numpy() for a, b in zip(before, pictures, strict=True)]
    return [*seen, *([None] * (count - len(seen)))]
