"""Clips of tones, and conversations whose words stand at given times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from media.timebase import MODEL_HZ
from model_server.model.config import DIGITS
from model_server.model.vocoder import FEATURES
from model_server.training.bank import Voice, WordBank
from model_server.training.clip import PCM, Clip, Word
from model_server.training.conversation import Scene, Score, play
from model_server.training.frames import Pictures
from model_server.training.mouth import VoiceTable
from model_server.training.partner import Skill
from model_server.training.stage import Stage
from model_server.training.voice_table import SUBFRAMES
from model_server.training.voice_table import Voice as VoiceOfWords

SMALL = replace(
    DIGITS,
    **dict(name="small", layers=2, hidden=48, heads=3, kv_heads=1, kv_heads_sliding=1, head_dim=16),
    **dict(dense_layers=1, dense_width=96, expert_width=32, experts=4, vision_widths=(8, 8, 8)),
)
"""A model that learns in seconds."""

Times = Sequence[tuple[str, float, float]]
"""Words of the caller with their first and last second."""


def tone(hz: float, seconds: float) -> PCM:
    at = np.arange(int(seconds * MODEL_HZ)) / MODEL_HZ
    return (8000 * np.sin(2 * np.pi * hz * at)).astype(np.int16)


def spoken(*labels: str, seconds: float = 0.3, speaker: str = "tone") -> Clip:
    """These words one after another, each so long, nothing before or after."""
    each = int(seconds * MODEL_HZ)
    pcm = np.concatenate([tone(300 + 40 * (len(label) + at), seconds) for at, label in enumerate(labels)])
    words = tuple(Word(label, at * each, (at + 1) * each) for at, label in enumerate(labels))
    return Clip(pcm, words, speaker, speaker)


def scored(
    bank: WordBank,
    table: VoiceTable,
    skills: Sequence[Skill],
    times: Times,
    turns: int,
    injected: dict[int, tuple[str, ...]] | None = None,
    pictures: Pictures | None = None,
) -> Score:
    def caller(stage: Stage) -> Iterator[None]:
        for label, start, end in times:
            pcm = np.zeros(round((end - start) * MODEL_HZ), np.int16)
            stage.place(Clip(pcm, (Word(label, 0, len(pcm)),), "", ""), round(start * MODEL_HZ), 0.0)
        for turn, tokens in (injected or {}).items():
            stage.inject(turn, *tokens)
        yield

    scene = Scene("test", (), skills, caller, pictures)
    return play(scene, bank, table, np.random.default_rng(0), turns, Voice("a", "fsdd"))


def voice_of(table: VoiceTable) -> VoiceOfWords:
    """Vectors and tones for the words of a table; every word's vectors are different."""
    features = np.random.default_rng(0).normal(size=(len(table.rows), SUBFRAMES, FEATURES)).astype(np.float32)
    return VoiceOfWords(tuple(table.rows), features, table.sounds)
