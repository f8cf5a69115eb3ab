"""What is made smaller, and that making it smaller teaches what was to be learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra: pip install 'microturn[torch]'")

from model_server.model.patches import STILL  # noqa: E402
from model_server.model.vocabulary import END, HEARD, IDS  # noqa: E402
from model_server.training.bank import WordBank  # noqa: E402
from model_server.training.batches import NOTHING, Length, Lesson, Source, source_of  # noqa: E402
from model_server.training.conversation import Surroundings  # noqa: E402
from model_server.training.corpus import Part  # noqa: E402
from model_server.training.mouth import VoiceTable, table_of  # noqa: E402
from model_server.training.objective import Counts, Learner, Vectors, counted, words_among  # noqa: E402
from model_server.training.synthesise import bank_folder  # noqa: E402
from model_server.training.voice_table import CACHE, Voice, load_voice, silence  # noqa: E402
from tests.model_server.training.scenes import SMALL, voice_of  # noqa: E402

LESSON = Lesson({"interpret": 1.0}, Length(20, 20), hardness=0.0)


def test_targets_are_counted_by_conversation() -> None:
    heard, said = IDS["heard:3"], IDS["say:3"]
    targets = torch.tensor([[END, -1, heard, said, END], [-1, -1, heard, END, -1]])
    found = torch.tensor([END, heard, END, said, END, END])
    first, second = counted(found, targets)
    assert first == Counts(heard=1, heard_right=1, said=1, said_right=0, false_events=1)
    assert second == Counts(heard=1, heard_right=0, said=0, said_right=0, false_events=0)
    assert (first + second).right == 1 / 3 and Counts().right == 0.0


def test_which_word_is_ours_is_weighed_apart_from_whether_there_is_one() -> None:
    targets = torch.tensor([END, IDS["heard:3"], IDS["say:3"], IDS["<delegate>"]])
    logits = torch.zeros(4, len(IDS))
    ours = len(IDS) - 1 - len(HEARD)
    assert float(words_among(logits, targets)) == pytest.approx(2 * math.log(ours) / 4)
    logits[:, END] = 50.0  # silence is far likelier: that is not what is asked here
    assert float(words_among(logits, targets)) == pytest.approx(2 * math.log(ours) / 4)
    logits[2, IDS["say:3"]] = logits[3, IDS["<delegate>"]] = 50.0
    assert float(words_among(logits, targets)) == pytest.approx(0.0, abs=1e-6)
    assert float(words_among(logits[:2], targets[:2])) == 0.0


def test_what_pictures_show_is_learned_at_their_last_position(table: VoiceTable) -> None:
    made, generator = learner(voice_of(table)), torch.Generator().manual_seed(1)
    rows = torch.zeros(3 * 2, SMALL.hidden)
    rows[3] = torch.randn(SMALL.hidden, generator=generator)  # the last of the second picture's two
    seen = torch.tensor([0, 1, 0])
    optimiser = torch.optim.AdamW(made.pictures.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        loss = made.picture_loss(rows, seen)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05
    assert float(made.picture_loss(rows[:0], seen[:0]).detach()) == 0.0


def test_motion_is_learned_by_the_patch_tower_itself(table: VoiceTable) -> None:
    made, generator = learner(voice_of(table)), torch.Generator().manual_seed(1)
    made.interaction.initialise(1)
    side = SMALL.patch_side
    patches = 0.05 * torch.randn(4 * 2, 2, side, side, 3, generator=generator) + STILL
    patches[2 * 2 + 1, 0, : side // 2] += 1.5  # in the third picture's second patch
    moved = torch.tensor([0, 0, 1, 0])
    taught = [*made.motion.parameters(), *made.interaction.eyes.parameters()]
    optimiser = torch.optim.AdamW(taught, lr=0.003)
    for _ in range(60):
        optimiser.zero_grad()
        loss = made.motion_loss(patches, moved)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05
    assert float(made.motion_loss(patches[:0], moved[:0]).detach()) == 0.0


def test_vectors_are_those_of_the_word_and_silence_beyond_it(table: VoiceTable) -> None:
    voice = voice_of(table)
    spoken = torch.tensor([[3, 0], [3, 1], [-1, 0]])
    rows = Vectors(voice).of(spoken).numpy().reshape(3, 16, -1)
    word = voice.words[3]
    assert np.array_equal(rows[0], voice.vectors(word, 0)) and np.array_equal(rows[1], voice.vectors(word, 1))
    assert np.array_equal(rows[2], silence()) and not np.array_equal(rows[0], rows[2])


def learner(voice: Voice) -> Learner:
    torch.manual_seed(1)
    made = Learner(SMALL, voice)
    made.interaction.initialise(1)
    return made


def test_one_batch_can_be_learned_by_heart(bank: WordBank, table: VoiceTable) -> None:
    batch = Source(bank, table, Surroundings(), SMALL).batch(1, 0, 2, LESSON)
    made = learner(voice_of(table))
    optimiser = torch.optim.AdamW(made.parameters(), lr=5e-3, betas=(0.9, 0.98))
    losses: list[Any] = []
    for step in range(45):
        losses.append(made.losses(batch, torch.Generator().manual_seed(step)))
        losses[-1].total.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    first, last = (sum(each.counts, Counts()) for each in (losses[0], losses[-1]))
    assert first.heard >= 5 and first.said >= 4 and first.right < 0.3
    assert last.right > 0.95 and last.false_events <= 1
    assert losses[-1].frames < 0.5 * losses[0].frames and losses[-1].sound < 0.7 * losses[0].sound


def test_a_batch_of_real_callers_has_words_frames_and_sound(data: Path) -> None:
    if not bank_folder(Part.VALIDATION, data=data).exists():
        pytest.skip("the word bank of validation is not made: python -m model_server.training.synthesise")
    if not any(CACHE.glob("*.npz")):
        pytest.skip(f"no voice is made in {CACHE}: python -m model_server.training.train makes it")
    voice = load_voice()
    table = table_of(dict(zip(voice.words, voice.sounds, strict=True)))
    source = source_of(Part.VALIDATION, table, SMALL, data)
    batch = source.batch(1, 0, 3, Lesson({"interpret": 1.0}, Length(40, 40)))
    losses = learner(voice).losses(batch, torch.Generator().manual_seed(0))
    counts = sum(losses.counts, Counts())
    assert counts.heard >= 10 and counts.said >= 10 and int((batch.frames > NOTHING).sum()) > 50
    assert all(bool(value.isfinite()) for value in (losses.tokens, losses.frames, losses.sound))
