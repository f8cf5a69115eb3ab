"""digits-bench: the layout of Full-Duplex-Bench, the same files each time, nobody who was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from model_server.training import digits_bench
from model_server.training.corpus import DATA
from model_server.training.digits_bench import SUBSETS, main, make

pytestmark = pytest.mark.skipif(
    not (DATA / "MANIFEST.tsv").is_file(), reason=f"no {DATA}: digits-bench is made of it"
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    assert make(folder, tuple(SUBSETS), 2) == 2 * len(SUBSETS)
    return folder


def sounds(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_the_same_files_each_time(bench, tmp_path):
    make(tmp_path, tuple(SUBSETS), 2)
    assert sounds(tmp_path) == sounds(bench)


def test_every_task_has_its_files(bench):
    found = {path.relative_to(bench).as_posix() for path in bench.rglob("*.*")}
    for number in range(2):
        for subset, name in (
            ("v1_0/digits_pause_handling", "pause.json"),
            ("v1_0/digits_turn_taking", "turn_taking.json"),
            ("v1_0/digits_user_interruption", "interrupt.json"),
            ("v1_5/user_interruption", "clean_input.wav"),
        ):
            assert {f"{subset}/{number}/input.wav", f"{subset}/{number}/{name}"} <= found
    (speaker,) = {
        path.name.split("_")[1] for path in (bench / "v3").iterdir() if path.name.startswith("digits0")
    }
    assert len(speaker) == 24 and int(speaker, 16)


def test_a_pause_is_silent_and_a_turn_ends_in_silence(bench):
    for number in range(2):
        folder = bench / "v1_0" / "digits_pause_handling" / str(number)
        pcm, rate_hz = soundfile.read(folder / "input.wav")
        start_s, end_s = json.loads((folder / "pause.json").read_text())[0]["timestamp"]
        assert 0.7 <= end_s - start_s <= 1.0
        inside = pcm[round((start_s + 0.1) * rate_hz) : round((end_s - 0.1) * rate_hz)]
        assert np.sqrt(np.mean(inside**2)) < 0.002
        folder = bench / "v1_0" / "digits_turn_taking" / str(number)
        pcm, rate_hz = soundfile.read(folder / "input.wav")
        end_s = json.loads((folder / "turn_taking.json").read_text())[0]["timestamp"][0]
        assert np.sqrt(np.mean(pcm[round((end_s + 0.1) * rate_hz) :] ** 2)) < 0.002
        assert np.sqrt(np.mean(pcm[round((end_s - 0.3) * rate_hz) : round(end_s * rate_hz)] ** 2)) > 0.004


def test_the_clean_input_differs_in_the_overlap_alone(bench):
    for subset in ("user_interruption", "user_backchannel", "talking_to_other", "background_speech"):
        folder = bench / "v1_5" / subset / "0"
        noisy, rate_hz = soundfile.read(folder / "input.wav", dtype="int16")
        clean, _ = soundfile.read(folder / "clean_input.wav", dtype="int16")
        start_s, end_s = json.loads((folder / "metadata.json").read_text())["timestamps"]
        where = np.flatnonzero(noisy != clean) / rate_hz
        assert len(noisy) == len(clean)
        assert start_s - 0.15 < where[0] and where[-1] < end_s + 0.15


def test_version_3_has_48_khz(bench):
    assert {soundfile.info(path).samplerate for path in (bench / "v3").rglob("input.wav")} == {48_000}


def test_unknown_subsets_are_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--subsets", "v9"]) == 2
    assert "expected some of v1_0/digits_pause_handling" in capsys.readouterr().err


def test_all_words_are_of_speakers_of_the_test_part(monkeypatch, tmp_path):
    taken = []
    real = digits_bench.one_of

    def noted(data, rng, label):
        taken.append(clip := real(data, rng, label))
        return clip

    monkeypatch.setattr(digits_bench, "one_of", noted)
    make(tmp_path, ("v1_0/digits_turn_taking", "v1_5/talking_to_other"), 2)
    parts = digits_bench.corpus.part_of_speakers(digits_bench.corpus.manifest())
    assert taken and {parts[clip.speaker] for clip in taken} == {digits_bench.Part.TEST}
