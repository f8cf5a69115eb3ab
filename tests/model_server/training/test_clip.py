"""Speech is found by its energy."""

from __future__ import annotations

import numpy as np

from media.timebase import MODEL_HZ
from model_server.training.clip import MARGIN_SAMPLES, breaks_off, speech_span, trimmed
from tests.model_server.training.scenes import tone


def _quiet(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, 15, int(seconds * MODEL_HZ)).astype(np.int16)


def test_a_word_is_cut_out_with_its_margins() -> None:
    pcm = np.concatenate([_quiet(0.3), tone(400, 0.25), _quiet(0.45)])
    clip = trimmed(pcm, "seven", "a", "here")
    assert clip is not None and clip.words[0].label == "seven"
    word = clip.words[0]
    assert abs(word.end_samples - word.start_samples - 0.25 * MODEL_HZ) <= 320
    assert word.start_samples == MARGIN_SAMPLES and len(clip.pcm) == word.end_samples + MARGIN_SAMPLES


def test_a_closure_within_a_word_is_bridged_and_a_click_beside_it_is_not() -> None:
    word = np.concatenate([tone(400, 0.2), _quiet(0.1), tone(700, 0.08)])
    pcm = np.concatenate([_quiet(0.1), tone(900, 0.01), _quiet(0.1), word, _quiet(0.3)])
    start, end = speech_span(pcm)
    assert abs(start - 0.21 * MODEL_HZ) <= 320 and abs(end - 0.59 * MODEL_HZ) <= 320


def test_a_recording_that_ends_in_the_middle_of_a_word_breaks_off() -> None:
    word = tone(400, 0.3)
    whole = trimmed(np.concatenate([_quiet(0.3), word, _quiet(0.4)]), "one", "a", "here")
    cut = trimmed(np.concatenate([_quiet(0.5), word[: len(word) // 2]]), "one", "a", "here")
    fall = (word * np.linspace(1.0, 0.0, len(word)) ** 3).astype(np.int16)
    faint = trimmed(np.concatenate([_quiet(0.5), fall]), "one", "a", "here")
    assert whole is not None and cut is not None and faint is not None
    assert (breaks_off(whole), breaks_off(cut), breaks_off(faint)) == (False, True, False)


def test_silence_is_no_word() -> None:
    assert speech_span(np.zeros(16000, np.int16)) == (0, 0)
    assert trimmed(np.zeros(16000, np.int16), "one", "a", "here") is None
