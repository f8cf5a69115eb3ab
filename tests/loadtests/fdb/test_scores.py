"""Full-Duplex-Bench's figures, by hand and by its own scripts.

The scripts run out of the folder that MICROTURN_FDB names (a checkout of DanielLin94144/Full-Duplex-Bench).
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.spatial.distance import jensenshannon

from loadtests.fdb import figures, layout, scores
from loadtests.fdb.layout import Word

CHECKOUT = os.environ.get("MICROTURN_FDB", "")
THEIRS = Path(CHECKOUT) / "v1_v1.5" / "evaluation"
published = pytest.mark.skipif(
    not CHECKOUT, reason="MICROTURN_FDB names no checkout of DanielLin94144/Full-Duplex-Bench"
)


def words(*times: tuple[float, float]) -> tuple[Word, ...]:
    return tuple(Word(f"w{n}", *time) for n, time in enumerate(times))


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (words(), False),
        (words((1.0, 1.9)), False),
        (words((1.0, 2.0)), True),
        (words((1.0, 1.2), (1.3, 1.5), (1.6, 1.9)), False),
        (words((1.0, 1.1), (1.2, 1.3), (1.4, 1.5), (1.6, 1.7)), True),
        ((Word("so", 1.0, 1.2), Word("then", 1.99, None)), False),
        ((Word("so", 1.0, 1.2), Word("then", 2.0, None)), True),
    ],
)
def test_a_turn_is_a_second_or_four_words(said, taken):
    assert scores.took_turn(said) is taken


def test_latency_is_that_of_turns_that_were_taken_and_never_negative():
    assert scores.latency_s(words((3.5, 5.0)), 3.0) == 0.5
    assert scores.latency_s(words((2.5, 5.0)), 3.0) == 0.0
    assert scores.latency_s(words((3.5, 4.0)), 3.0) is None


def test_backchannels_are_short_and_the_last_stretch_decides():
    yes = (Word("yes", 1.0, 1.4),)
    one = scores.backchannels([(1.0, 1.4)], yes, 10.0, None)
    assert (one.took_turn, one.frequency, one.jsd) == (False, 0.1, None)
    long = scores.backchannels([(1.0, 1.4), (5.0, 8.5)], yes, 10.0, None)
    assert long.took_turn and long.stretches == ((1.0, 1.4),)
    three = words((2.0, 2.2), (2.2, 2.4), (2.4, 2.6))
    assert scores.backchannels([(2.0, 2.6)], three, 10.0, None).took_turn
    assert not scores.backchannels([(2.0, 3.2), (4.0, 4.5)], (), 10.0, None).took_turn
    silent = scores.backchannels([], (), 10.0, [0.5, 0.5])
    assert (silent.took_turn, silent.frequency, silent.jsd) == (False, 0.0, 1.0)


def test_the_distance_is_the_one_of_scipy():
    rng = np.random.default_rng(3)
    for size in (5, 51, 120):
        said, people = rng.random(51), rng.random(size)
        people[: size // 3] = 0.0
        stretched = np.interp(np.linspace(0, 1, 51), np.linspace(0, 1, size), people)
        assert scores.distance(said, people) == pytest.approx(float(jensenshannon(said, stretched)))


def test_the_same_place_has_no_distance_and_another_one_the_greatest():
    everywhere = scores.backchannels([(0.0, 2.0)], (), 2.0, [1.0, 1.0]).jsd
    elsewhere = scores.backchannels([(0.0, 0.5)], (), 10.0, [0.0] * 40 + [1.0] * 10).jsd
    assert everywhere == pytest.approx(0.0, abs=1e-6)
    assert elsewhere == pytest.approx(np.sqrt(np.log(2)), abs=0.01)


def test_overlaps_and_gaps():
    user, model = [(0.0, 2.0), (5.0, 6.0)], [(1.5, 5.4), (7.0, 9.0)]
    assert scores.overlaps(user, model) == [(1.5, 2.0), (5.0, 5.4)]
    assert scores.response_gaps(user, model) == [(6.0, 7.0)]
    assert scores.merged([(3.0, 4.0), (0.0, 1.0), (1.5, 2.0)], 0.5) == [(0.0, 2.0), (3.0, 4.0)]
    assert scores.stopped_s(model, 5.0) == pytest.approx(0.4)
    assert scores.stopped_s(model, 6.5) is None


def theirs(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(THEIRS))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def written(folder: Path, task: str, seed: int, count: int = 40) -> Path:
    """Samples with words drawn from a seed, some of them silent."""
    rng = np.random.default_rng(seed)
    annotation = {"smooth_turn_taking": "turn_taking", "user_interruption": "interrupt"}.get(task, "pause")
    for number in range(count):
        sample = folder / task / str(number)
        sample.mkdir(parents=True)
        soundfile.write(sample / "input.wav", np.zeros(16_000, np.int16), 16_000)
        soundfile.write(sample / "output.wav", np.zeros(16_000, np.int16), 16_000)
        starts = np.sort(rng.uniform(2, 2 + rng.choice([0.6, 4.0]), rng.integers(0, 7)))
        said = [Word(f"w{n}", float(at), float(at + 0.2)) for n, at in enumerate(starts)]
        event = [2.0, 2.4] if task == "smooth_turn_taking" else [1.2, 1.9]
        if task == "user_interruption":
            said = [word for word in said if word.start_s >= event[1]]
        told = [{"text": "", "context": "", "interrupt": "", "timestamp": event}]
        (sample / f"{annotation}.json").write_text(json.dumps(told))
        layout.write_words(sample / "output.json", said)
    return folder / task


def printed(name: str, text: str) -> float:
    found = re.search(rf"{name}:\s+([\d.]+)", text)
    assert found, text
    return float(found[1])


@published
@pytest.mark.parametrize("task", ["pause_handling", "smooth_turn_taking", "user_interruption"])
def test_turns_and_latencies_are_those_of_the_published_scripts(tmp_path, monkeypatch, capsys, task):
    folder = written(tmp_path, task, 7)
    module = theirs(f"eval_{task}", monkeypatch)
    evaluate: Any = getattr(module, f"eval_{task}")
    if task == "user_interruption":
        evaluate(str(folder), judge_that_says("Analysis: none\nI would rate the AI's response as 3"))
    else:
        evaluate(str(folder))
    told = capsys.readouterr().out
    ours = figures.of_subset(layout.find(folder), {})
    assert ours["tor"] == pytest.approx(printed("Average take turn", told), abs=6e-4)
    if task != "pause_handling":
        assert ours["latency_mean_s"] == pytest.approx(printed("Average latency", told), abs=6e-4)


def judge_that_says(text: str) -> Any:
    """What they ask for a rating; what it says has no part in the figures that are compared."""
    answer = SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=text))])
    create = lambda **_: answer  # noqa: E731
    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


@published
@pytest.mark.parametrize("example", ["pause_handling", "smooth_turn_taking"])
def test_their_own_examples_are_read_as_they_read_them(tmp_path, monkeypatch, capsys, example):
    folder = tmp_path / "set"
    shutil.copytree(THEIRS / "example_data" / f"{example}_example", folder)
    getattr(theirs(f"eval_{example}", monkeypatch), f"eval_{example}")(str(folder))
    told = capsys.readouterr().out
    ours = figures.of_subset(layout.find(folder), {})
    assert ours["tor"] == printed("Average take turn", told)
    if example == "smooth_turn_taking":
        assert ours["latency_mean_s"] == pytest.approx(printed("Average latency", told), abs=6e-4)


@published
def test_backchannels_are_those_of_the_published_script(tmp_path, monkeypatch, capsys):
    """With the speech that silero-vad finds, which decides here as there."""
    silero, torchaudio = pytest.importorskip("silero_vad"), pytest.importorskip("torchaudio")
    example = THEIRS / "example_data" / "smooth_turn_taking_example" / "1"
    spoken, rate_hz = soundfile.read(example / "output.wav", dtype="int16")
    assert rate_hz == 16_000
    for number in range(4):
        sample = tmp_path / "backchannel" / str(number)
        sample.mkdir(parents=True)
        pcm = np.zeros(12 * rate_hz, np.int16)
        for at_s in (2.0, 6.5)[: number + 1]:
            piece = spoken[round(3.3 * rate_hz) : round((3.9 + 0.9 * number) * rate_hz)]
            pcm[round(at_s * rate_hz) :][: len(piece)] = piece
        soundfile.write(sample / "input.wav", pcm, rate_hz)
        soundfile.write(sample / "output.wav", pcm, rate_hz)
        layout.write_words(sample / "output.json", words((2.1, 2.5), (6.6, 7.0), (7.0, 7.4)))
    monkeypatch.chdir(THEIRS)
    theirs("eval_backchannel", monkeypatch).eval_backchannel(str(tmp_path / "backchannel"))
    told = capsys.readouterr().out
    people = json.loads((THEIRS / "icc_gt_distribution.json").read_text())
    model = silero.load_silero_vad()
    found = []
    for sample in layout.find(tmp_path / "backchannel"):
        wav, sr = torchaudio.load(str(sample.folder / "output.wav"))
        speech = [
            (s["start"], s["end"]) for s in silero.get_speech_timestamps(wav, model, return_seconds=True)
        ]
        assert speech
        found.append(scores.backchannels(speech, sample.words() or (), 12.0, people[sample.name]))
    for name, values in {
        "JSD - Mean": [one.jsd for one in found],
        "TOR - Mean": [one.took_turn for one in found],
        "Frequency - Mean": [one.frequency for one in found],
    }.items():
        assert np.mean(np.array(values, float)) == pytest.approx(printed(name, told), abs=1e-4), name


@published
def test_overlaps_and_gaps_are_those_of_the_published_script(monkeypatch):
    source = (THEIRS / "get_timing.py").read_text()
    # the functions alone: the head of the script loads a detector from the network
    script: dict[str, Any] = {}
    body = source[source.index("def _merge") : source.index("# -------------- Folder processing")]
    exec("from typing import List, Tuple\n" + re.sub(r"(?s)def seg_sec.*?\n\n\n", "", body), script)
    rng = np.random.default_rng(11)
    for _ in range(200):
        user, model = (
            scores.merged([(float(a), float(a + b)) for a, b in rng.uniform(0.1, (20, 2), (6, 2))], 0.5)
            for _ in range(2)
        )
        assert [list(one) for one in scores.overlaps(user, model)] == script["overlaps"](user, model)
        assert [list(one) for one in scores.response_gaps(user, model)] == script["response_gaps"](
            user, model
        )
