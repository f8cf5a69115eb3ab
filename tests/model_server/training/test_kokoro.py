"""Kokoro's voices, where they are installed; what needs no network of theirs, everywhere."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from model_server.training import kokoro, voice_judge
from model_server.training.corpus import DIGITS
from model_server.training.lines import COMMANDS, OTHERS, SPOKEN_DIGITS

needs_kokoro = pytest.mark.skipif(kokoro.missing(), reason=kokoro.INSTALL)


def test_what_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kokoro, "missing", lambda: True)
    with pytest.raises(RuntimeError, match="npm pack kokoro-js@1.2.1"):
        kokoro.Kokoro()


def test_a_mixture_is_that_of_its_seed_and_speaks_as_its_main_voice_does() -> None:
    rng = np.random.default_rng(0)
    styles = {
        name: rng.normal(size=(510, 256)).astype(np.float32) for name in ("af_a", "am_b", "bf_c", "zf_d")
    }
    drawn = [kokoro.mixture(styles, np.random.default_rng(seed)) for seed in range(40)]
    again = [kokoro.mixture(styles, np.random.default_rng(seed)) for seed in range(40)]
    for (name, style, accent), (same, same_style, _) in zip(drawn, again, strict=True):
        assert name == same and np.array_equal(style, same_style)
        assert accent == ("en-gb" if name.startswith("kokoro:bf_c+") else "en-us")
        assert not name.startswith("kokoro:zf_d")
    assert {name.split("+")[0] for name, _, _ in drawn} == {"kokoro:af_a", "kokoro:am_b", "kokoro:bf_c"}
    assert any("zf_d" in name for name, _, _ in drawn)


@pytest.mark.skipif(
    not shutil.which("espeak-ng"), reason="espeak-ng is not installed: apt-get install espeak-ng"
)
def test_phonemes_are_those_of_the_accent() -> None:
    assert kokoro.phonemes("nine", "en-us") == "nˈIn"
    assert [kokoro.phonemes("four", accent) for accent in ("en-us", "en-gb")] == ["fˈoɹ", "fˈɔː"]


@needs_kokoro
def test_every_word_has_phonemes_that_the_network_knows() -> None:
    known = set(kokoro.Kokoro()._ids)
    for label in (*SPOKEN_DIGITS, *COMMANDS, *OTHERS):
        for accent in ("en-us", "en-gb"):
            assert set(kokoro.phonemes(label, accent)) <= known, label


@needs_kokoro
@pytest.mark.skipif(not voice_judge.is_here(), reason="pocketsphinx is not installed")
def test_words_lie_where_the_network_says_them() -> None:
    network = kokoro.Kokoro()
    lines = [("seven",), ("two", "nine"), ("five", "oh", "one")]
    clips = network.speak(lines, network.styles["af_heart"], "en-us", 1.0, "heart")
    assert [tuple(word.label for word in clip.words) for clip in clips] == lines
    judge = voice_judge.Judge([f"say:{digit}" for digit in range(10)])
    for clip in clips:
        for before, after in zip(clip.words, clip.words[1:], strict=False):
            assert before.end_samples <= after.start_samples
        for word in clip.words:
            alone = np.pad(clip.pcm[max(0, word.start_samples - 400) : word.end_samples + 400], 4_800)
            digit = DIGITS.index(word.label) if word.label in DIGITS else 0
            assert word.label == "oh" or judge.hears(alone) == f"say:{digit}"
