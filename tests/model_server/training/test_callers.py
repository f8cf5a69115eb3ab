"""Recorded digits, joined as people say them in one breath."""

from __future__ import annotations

import numpy as np
import pytest

from media.timebase import MODEL_HZ
from model_server.training.bank import WordBank
from model_server.training.callers import drawn_out, hurried, joined, says_digits
from model_server.training.clip import Clip, Word
from model_server.training.mouth import Mouth, VoiceTable
from model_server.training.stage import Stage

MARGIN, SPEECH = 1280, 8000
"""80 ms around half a second of speech."""


def _clip(*ends: int) -> Clip:
    """Words behind one another, the first from MARGIN on."""
    pcm = np.random.default_rng(2).integers(-3000, 3000, ends[-1] + MARGIN).astype(np.int16)
    starts = (MARGIN, *ends[:-1])
    words = tuple(Word(f"w{at}", a, b) for at, (a, b) in enumerate(zip(starts, ends, strict=True)))
    return Clip(pcm, words, "a", "a")


@pytest.mark.parametrize(
    ("pace", "length"), [(1.0, SPEECH), (0.8, SPEECH / 0.8), (1.25, SPEECH / 1.25), (3.0, MODEL_HZ * 0.3)]
)
def test_a_digit_is_hurried_or_slowed_and_none_below_300_ms(pace: float, length: float) -> None:
    clip = hurried(_clip(MARGIN + SPEECH), pace)
    assert clip.words[0].end_samples - clip.words[0].start_samples == pytest.approx(length, abs=3)
    short = _clip(MARGIN + 4000)
    assert hurried(short, 1.5) is short


def test_a_joined_clip_loses_its_ends_and_no_more_and_fades() -> None:
    clip = _clip(MARGIN + SPEECH, MARGIN + SPEECH + 4000)
    cut = joined(clip, 0.1, 0.2)
    first, last = cut.words
    assert first.end_samples - first.start_samples == 7200 and last.end_samples - last.start_samples == 3200
    assert first.end_samples == last.start_samples
    fade = MODEL_HZ * 25 // 1000
    assert first.start_samples == fade and len(cut.pcm) == last.end_samples + fade
    middle = slice(2 * fade, len(cut.pcm) - 2 * fade)
    start = MARGIN + 800 - fade
    assert np.array_equal(cut.pcm[middle], clip.pcm[start + middle.start : start + middle.stop])
    assert cut.pcm[0] == 0 == cut.pcm[-1] and abs(int(cut.pcm[fade])) <= 1600


def test_the_last_word_of_a_breath_is_drawn_out_and_nothing_else_is_changed() -> None:
    clip = _clip(MARGIN + SPEECH, MARGIN + SPEECH + 4000)
    longer = drawn_out(clip, 1.5)
    assert longer.words[0] == clip.words[0]
    assert longer.words[1] == Word("w1", clip.words[1].start_samples, clip.words[1].start_samples + 6000)
    assert len(longer.pcm) == len(clip.pcm) + 2000
    begin, end = clip.words[1].start_samples, longer.words[1].end_samples
    assert np.array_equal(longer.pcm[:begin], clip.pcm[:begin])
    assert np.array_equal(longer.pcm[end:], clip.pcm[clip.words[1].end_samples :])
    said = longer.pcm[begin:end].astype(float)
    assert np.sqrt(np.mean(said**2)) == pytest.approx(np.sqrt(np.mean(clip.pcm.astype(float) ** 2)), rel=0.25)


def test_a_string_in_one_breath_has_digits_that_touch(bank: WordBank, table: VoiceTable) -> None:
    touching = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stage = Stage(rng, bank, bank.voice(rng, {"fsdd": 1.0}), Mouth(table), 96)
        end = says_digits(stage, 8, 3200, counted=False)
        assert end == stage.said[-1].end_samples and len(stage.said) == 8
        gaps = [b.start_samples - a.end_samples for a, b in zip(stage.said, stage.said[1:], strict=False)]
        assert min(gaps) >= 0
        touching += gaps.count(0)
    assert touching >= 20
