"""Conversations as batches of positions for training, made as they are needed.

An example is named by (seed, number): any worker makes the same one, so a run resumes where it stopped and two
processes can share the work by taking every second number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from media.timebase import TURN_MS
from model_server.model.config import ModelConfig
from model_server.model.dmel import levels_of
from model_server.model.inputs import Conversations
from model_server.model.micro_turn import HEAR_POSITIONS, MicroTurn, Rows, truth_of
from model_server.model.patches import patches_of
from model_server.model.vocabulary import ids_of
from model_server.training import corpus, synthesise
from model_server.training.bank import WordBank
from model_server.training.channel import Line
from model_server.training.conversation import Conversation, Scene, Surroundings, play, rendered
from model_server.training.corpus import DATA, Part
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
    "read back": 0.3,
    "stop": 0.11,
    "correct": 0.13,
    "interpret": 0.12,
    "every": 0.1,
    "ask for help": 0.1,
    "mixed": 0.1,
    "count": 0.04,
}
"""Of the conversations. A turn with a picture has many times the positions of one without."""


@dataclass(frozen=True, slots=True)
class Length:
    """Of conversations, in turns; drawn evenly between the two."""

    shortest: int = 16_000 // TURN_MS
    longest: int = 24_000 // TURN_MS


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One conversation as the model takes it, T turns."""

    scene: str
    turns: tuple[MicroTurn, ...]
    voice: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    """int64 [T, 2]: row of the voice table and turns into it; (-1, 0): silence."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Conversations laid out, and what they ought to sound like."""

    inputs: Conversations
    voice: Tensor
    """int64 [turns of all conversations, 2], as in `Example`: row i belongs to the i-th four `speak` positions."""
    scenes: tuple[str, ...]


class Source:
    """Makes conversations out of a word bank and our voice."""

    def __init__(
        self,
        bank: WordBank,
        table: VoiceTable,
        surroundings: Surroundings,
        config: ModelConfig,
        shares: Mapping[str, float] = SHARES,
    ) -> None:
        self._bank, self._table, self._surroundings, self._config = bank, table, surroundings, config
        self._names = [name for name, share in shares.items() if share > 0]
        chances = np.array([shares[name] for name in self._names])
        self._chances = chances / chances.sum()

    def conversation(
        self, seed: int, number: int, length: Length, scene: str | None = None, line: Line | None = None
    ) -> Conversation:
        """Conversation `number` of a seed, of the named scene or of one that is drawn."""
        rng = np.random.default_rng([seed, number])
        name = scene or self._names[int(rng.choice(len(self._names), p=self._chances))]
        turns = int(rng.integers(length.shortest, length.longest + 1))
        chosen = count.scene(rng, turns) if name == "count" else SCENES[name](rng)
        score = play(chosen, self._bank, self._table, rng, turns)
        return rendered(score, self._table, rng, self._surroundings, line)

    def example(self, seed: int, number: int, length: Length) -> Example:
        """The same, as positions."""
        return example_of(self.conversation(seed, number, length), self._config)

    def batches(self, seed: int, first: int, size: int, length: Length, step: int = 1) -> Iterator[Batch]:
        """Without end: batches first, first + step, ..., each of `size` conversations."""
        number = first
        while True:
            yield self.batch(seed, number, size, length)
            number += step

    def batch(self, seed: int, number: int, size: int, length: Length) -> Batch:
        """Batch `number` of a seed."""
        return collated([self.example(seed, number * size + at, length) for at in range(size)], self._config)


def source_of(
    part: Part,
    table: VoiceTable,
    config: ModelConfig,
    data: Path = DATA,
    shares: Mapping[str, float] = SHARES,
) -> Source:
    """A source of the real data; the word bank is made first where it is not there."""
    bank = WordBank(synthesise.make(part, data=data))
    around = Part.TRAIN if part is Part.VALIDATION else part
    surroundings = Surroundings(
        list(corpus.noises(around, data).values()),
        corpus.rooms(around, data),
        list(corpus.background_speech(around, data)),
    )
    return Source(bank, table, surroundings, config, shares)


def example_of(conversation: Conversation, config: ModelConfig) -> Example:
    """Sound to dMel levels, pictures to patches, tokens to ids."""
    count = len(conversation.turns)
    heard = levels_of(conversation.caller).reshape(count, HEAR_POSITIONS, -1)
    own = levels_of(conversation.own).reshape(count, HEAR_POSITIONS, -1)
    truth = truth_of(conversation.made_up).reshape(count, HEAR_POSITIONS)
    pictures = _patches(conversation, config)
    turns = tuple(
        MicroTurn(heard[t], own[t], truth[t], pictures[t], ids_of(turn.inject), ids_of(turn.say))
        for t, turn in enumerate(conversation.turns)
    )
    voice = np.array([turn.voice for turn in conversation.turns], np.int64)
    return Example(conversation.scene, turns, voice)


def collated(examples: Sequence[Example], config: ModelConfig) -> Batch:
    """Examples behind one another, filled up to the longest."""
    return Batch(
        Conversations.of([example.turns for example in examples], config),
        torch.from_numpy(np.concatenate([example.voice for example in examples])),
        tuple(example.scene for example in examples),
    )


def _patches(conversation: Conversation, config: ModelConfig) -> list[Rows | None]:
    if conversation.pictures is None:
        return [None] * len(conversation.turns)
    pictures = [conversation.pictures.picture(turn) for turn in range(len(conversation.turns))]
    before = [None, *pictures[:-1]]
    return [patches_of(a, b, config).numpy() for a, b in zip(before, pictures, strict=True)]
