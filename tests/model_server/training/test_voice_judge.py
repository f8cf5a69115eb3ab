from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from media.timebase import MODEL_HZ
from model_server.model.vocabulary import DIGITS, SAID
from model_server.training import voice_judge
from model_server.training.channel import Codec
from model_server.training.corpus import load
from model_server.training.voice_judge import Judge, judges
from model_server.training.voice_table import make_voice

AMY = Path(__file__).parents[4] / "shared/data/voice/amy"

pytestmark = pytest.mark.skipif(not voice_judge.is_here(), reason="pocketsphinx is not installed")


@pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed: apt-get install flite")
def test_a_few_words_of_our_voice_are_understood() -> None:
    """All of them are measured by `python -m model_server.training.voice_judge`."""
    voice = make_voice(("say:3", "say:6", "say:tres"))
    by_word = judges()
    verdicts = [
        by_word[word].judge(word, pcm, [Codec.OPUS])
        for word, pcm in zip(voice.words, voice.sounds, strict=True)
    ]
    assert all(verdict.right == verdict.of == 3 for verdict in verdicts), verdicts


@pytest.mark.skipif(not AMY.is_dir(), reason="../shared/data/voice/amy is not here")
def test_a_real_woman_is_understood_and_another_word_is_not_taken_for_it() -> None:
    judge = Judge([f"say:{digit}" for digit in DIGITS])
    for digit in (1, 7):
        pcm = load(AMY / f"{digit}.flac")
        assert judge.judge(f"say:{digit}", pcm, [Codec.OPUS]).right == 3
        verdict = judge.judge("say:2", pcm, [Codec.OPUS])
        assert verdict.right == 0 and verdict.mistaken_for == (f"say:{digit}",)


def test_every_said_token_has_a_judge() -> None:
    assert set(judges()) == set(SAID)


def test_a_line_takes_away_what_a_telephone_does_and_the_ear_folds_the_rest() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(MODEL_HZ) / MODEL_HZ
    high, low = ((8000 * np.sin(2 * np.pi * hz * time)).astype(np.int16) for hz in (5000, 1000))
    heard = {line: voice_judge.over(high, line, 100, rng) for line in (Codec.OPUS, Codec.MULAW)}
    assert len(heard[Codec.OPUS]) == len(heard[Codec.MULAW]) == MODEL_HZ * 12 // 10
    assert np.std(heard[Codec.OPUS]) > 4000 and np.std(heard[Codec.MULAW]) < 100
    spectrum = np.abs(np.fft.rfft(voice_judge.over(low, Codec.ALAW, 0, rng)))
    assert abs(spectrum[7000] / spectrum[1000] - voice_judge.FOLDED) < 0.05


def test_what_was_heard_before_makes_no_difference() -> None:
    judge = Judge(["say:1", "say:2"])
    loud = (9000 * np.random.default_rng(3).standard_normal(MODEL_HZ)).clip(-32768, 32767).astype(np.int16)
    first = judge.judge("say:1", loud // 4)
    judge.hears(loud)
    assert judge.judge("say:1", loud // 4) == first
