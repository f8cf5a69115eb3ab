"""The synthesisers of Debian, where they are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from media.timebase import MODEL_HZ
from model_server.training import synthetic
from model_server.training.bank import WordBank
from model_server.training.corpus import Part
from model_server.training.espeak import Espeak, variants
from model_server.training.lines import OTHERS, SPOKEN_DIGITS, script, strings, token_of
from model_server.training.synthesise import make

needs_voices = pytest.mark.skipif(
    bool(synthetic.missing()), reason=f"apt-get install {' '.join(synthetic.missing())}"
)


def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "missing", lambda: ["flite", "festvox-kallpc16k"])
    with pytest.raises(RuntimeError, match="apt-get install flite festvox-kallpc16k"):
        next(synthetic.voices(Part.TRAIN, 0, 1, 1, 0))


@needs_voices
def test_words_lie_where_espeak_says_them() -> None:
    library = Espeak()
    assert library.voice("en-us", 160, 50, 50) and not library.voice("nobody", 160, 50, 50)
    pcm, starts = library.speak(["seven", "two", "oh"])
    assert len(starts) == 3 and starts == sorted(starts)
    alone, _ = library.speak(["seven"])
    assert 0.15 * MODEL_HZ < starts[1] < len(alone) and len(pcm) > starts[2] + 0.1 * MODEL_HZ


@needs_voices
def test_a_bank_is_the_same_from_the_same_seed(data: Path, tmp_path: Path) -> None:
    folders = [make(Part.VALIDATION, 4, data, tmp_path / name) for name in ("one", "two")]
    first, again = (WordBank(folder) for folder in folders)
    assert len(first) == len(again) > 500 and first.families == again.families
    for name in ("pcm.npy", "clips.npy", "words.npy", "index.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    for at in range(0, len(first), 7):
        words = first.clip(at).words
        assert all(a.end_samples <= b.start_samples for a, b in zip(words, words[1:], strict=False))


@needs_voices
def test_variants_are_in_one_part_each_and_every_part_has_some() -> None:
    parts = [synthetic.part_of_variant(name) for name in variants()]
    assert set(parts) == set(Part) and parts.count(Part.TRAIN) > len(parts) / 2


def test_scripts_cover_the_words_and_others_mean_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = {label for _ in range(20) for line in script(rng, 20, 8, 6) for label in line}
    assert {f"heard:{digit}" for digit in range(10)} <= {token_of(label) for label in labels}
    assert {"stop", "plus", "how many", "every", "seconds", "oh"} <= labels
    assert not any(token_of(label) for label in OTHERS)
    assert token_of("oh") == "heard:0" and token_of("how many") == "heard:how-many"


def test_strings_begin_with_every_digit_and_hold_nothing_else() -> None:
    lines = strings(np.random.default_rng(0), 10)
    assert len({line[0] for line in lines}) == 10
    assert all(len(line) in (4, 5) and set(line) <= set(SPOKEN_DIGITS) for line in lines)
