from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.model.vocabulary import SAID, SPANISH
from model_server.model.vocoder import FLOOR, MELS, VOICING, mel_edges_hz
from model_server.training import voice_table
from model_server.training.mouth import MAX_WORD_TURNS, table_of
from model_server.training.voice_table import SPANISH_PHONES, SUBFRAMES, Voice, make_voice, silence

WORDS = ("say:7", "say:17", "say:tres", "say:i-do-not-know")

needs_flite = pytest.mark.skipif(
    not shutil.which("flite"), reason="flite is not installed: apt-get install flite"
)


@pytest.fixture(scope="module")
def voice() -> Voice:
    return make_voice(WORDS)


@needs_flite
def test_every_word_begins_with_its_turn_and_ends_in_three(voice: Voice) -> None:
    for word, sound in zip(voice.words, voice.sounds, strict=True):
        heard = np.flatnonzero(np.abs(sound.astype(int)) > 0.02 * np.abs(sound).max())
        assert heard[0] < 0.03 * MODEL_HZ, word
        assert len(sound) == voice.turns(word) * TURN_SAMPLES <= MAX_WORD_TURNS * TURN_SAMPLES
        assert heard[-1] < len(sound) - 0.005 * MODEL_HZ, word


@needs_flite
def test_words_are_equally_loud_and_none_is_clipped(voice: Voice) -> None:
    for word, sound in zip(voice.words, voice.sounds, strict=True):
        blocks = np.sqrt(np.mean((sound[: len(sound) // 320 * 320].reshape(-1, 320) / 32768.0) ** 2, axis=1))
        active = blocks[blocks > blocks.max() * 10 ** (-30 / 20)]
        assert -23 < 20 * np.log10(np.sqrt(np.mean(active**2))) < -17, word
        assert np.abs(sound.astype(int)).max() < 30_000, word


@needs_flite
def test_vectors_of_a_turn_are_those_of_the_word_and_then_silence(voice: Voice) -> None:
    np.testing.assert_array_equal(voice.vectors("say:7", 1), voice.features[0, 16:32])
    np.testing.assert_array_equal(voice.vectors("say:7", 3), silence())
    np.testing.assert_array_equal(voice.vectors("say:17", 2)[-1], silence()[0])
    assert voice.vectors("say:7", 0)[4:, :MELS].max() > FLOOR + 2


@needs_flite
def test_a_voice_is_made_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_table, "SAID", {word: SAID[word] for word in WORDS[:2]})
    monkeypatch.setattr(voice_table.load_voice, "__defaults__", (tmp_path,))
    monkeypatch.setattr(voice_table.make_voice, "__defaults__", (WORDS[:2],))
    made = voice_table.load_voice()
    monkeypatch.setattr(voice_table, "make_voice", None)
    again = voice_table.load_voice()
    assert again.words == made.words == WORDS[:2]
    np.testing.assert_array_equal(again.features, made.features)
    assert all(np.array_equal(a, b) for a, b in zip(again.sounds, made.sounds, strict=True))


@needs_flite
def test_the_mouth_of_the_conversations_takes_it(voice: Voice) -> None:
    table = table_of(dict(zip(voice.words, voice.sounds, strict=True)))
    assert [table.turns(table.rows[word]) for word in WORDS] == [voice.turns(word) for word in WORDS]


@needs_flite
def test_a_sibilant_is_heard_below_the_edge_of_a_telephone_line(voice: Voice) -> None:
    """The last sound of `tres`: between 3 and 4 kHz at most 10 dB weaker than anywhere above."""
    hz = mel_edges_hz()[1:-1]
    vectors = voice.features[2]
    hissing = vectors[(vectors[:, VOICING] == 0) & (vectors[:, :MELS].max(1) > FLOOR + 2)]
    telephone, above = hissing[:, :MELS][:, (hz > 3000) & (hz < 4000)], hissing[:, :MELS][:, hz > 4000]
    assert len(hissing) > 3
    assert (telephone.min(1) > above.max(1) - 0.5).all()


@needs_flite
def test_statistics_leave_every_dimension_with_a_spread(voice: Voice) -> None:
    mean, deviation = voice.statistics()
    normal = (voice.features - mean) / deviation
    assert deviation.min() > 0
    assert np.abs(normal.mean((0, 1))).max() < 1e-3 and np.abs(normal).max() < 20


def test_every_spanish_word_has_its_phones() -> None:
    assert set(SPANISH_PHONES) == set(SPANISH)
    assert SUBFRAMES == 48


def test_without_flite_the_reader_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="apt-get install flite"):
        make_voice(("say:1",))
