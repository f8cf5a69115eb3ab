"""The word bank gives back what was put into it, by what it says and who says it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_server.training.bank import SPEECH_RMS, WordBank, write
from model_server.training.corpus import DIGITS
from tests.model_server.training.scenes import spoken


def test_clips_come_back_with_their_words_at_one_level(bank: WordBank) -> None:
    clip = bank.word(np.random.default_rng(0), "stop")
    assert [word.label for word in clip.words] == ["stop"] and clip.speaker == "c"
    assert np.sqrt(np.mean(clip.pcm.astype(float) ** 2)) == pytest.approx(SPEECH_RMS, rel=0.01)


def test_digits_are_of_the_voice_asked_for_and_not_too_many(bank: WordBank) -> None:
    rng = np.random.default_rng(0)
    voice = bank.voice(rng, {"fsdd": 1.0})
    clips = [bank.digits(rng, voice, 2) for _ in range(200)]
    assert {clip.speaker for clip in clips} == {"a"} and {len(clip.words) for clip in clips} == {1, 2}
    assert {word.label for clip in clips for word in clip.words} == {*DIGITS, "oh"}


def test_a_breath_with_too_many_digits_ends_after_the_first(tmp_path: Path) -> None:
    write(tmp_path, [("a", "fsdd", [spoken("seven", "two", "six")])])
    bank = WordBank(tmp_path)
    clip = bank.digits(np.random.default_rng(0), bank.voices[0], 2)
    assert [word.label for word in clip.words] == ["seven", "two"]
    assert len(clip.pcm) == clip.words[-1].end_samples


def test_questions_requests_and_other_words_are_told_apart(bank: WordBank) -> None:
    rng = np.random.default_rng(0)
    questions = {tuple(word.label for word in bank.question(rng).words) for _ in range(20)}
    assert questions == {("three", "plus", "four"), ("how many", "happy")}
    assert [word.label for word in bank.request(rng).words] == ["every", "five", "seconds"]
    assert [word.label for word in bank.other(rng).words] == ["happy"]


def test_a_family_that_is_not_there_is_said(bank: WordBank) -> None:
    with pytest.raises(ValueError, match="festival"):
        bank.voice(np.random.default_rng(0), {"festival": 1.0})
