"""The published folders are read, and answers lie where the published scripts look for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loadtests.fdb import calls, figures, layout, words
from loadtests.fdb.command import Plan, main
from loadtests.fdb.layout import Task, Version, Word
from loadtests.fdb.speech import stretches

SPEAKER = "0123456789abcdef01234567"


def sound(path: Path, seconds: float = 1.0, rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * rate_hz), np.int16), rate_hz)


def told(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One sample of everything, as it is published."""
    for subset, name, times in (
        ("candor_pause_handling", "pause", [3.3, 4.0]),
        ("candor_turn_taking", "turn_taking", [2.0, 2.4]),
        ("synthetic_user_interruption", "interrupt", [10.5, 13.1]),
    ):
        sound(tmp_path / "v1_0" / subset / "1" / "input.wav")
        told(tmp_path / "v1_0" / subset / "1" / f"{name}.json", [{"text": "", "timestamp": times}])
    sound(tmp_path / "v1_0" / "icc_backchannel" / "0" / "input.wav")
    for name in ("input.wav", "clean_input.wav"):
        sound(tmp_path / "v1_5" / "talking_to_other" / "7" / name)
    told(tmp_path / "v1_5" / "talking_to_other" / "7" / "metadata.json", {"timestamps": [7.275, 11.467]})
    sound(tmp_path / "v3" / f"travel_03_{SPEAKER}" / "input.wav", rate_hz=48_000)
    told(tmp_path / "v3" / f"travel_03_{SPEAKER}" / "metadata.json", {"title": "Book", "domain": "travel"})
    return tmp_path


def test_every_version_and_task_is_found(root):
    found = {sample.subset: sample for sample in layout.find(root)}
    assert {subset: (sample.version, sample.task) for subset, sample in found.items()} == {
        "v1_0/candor_pause_handling": (Version.V1, Task.PAUSE),
        "v1_0/candor_turn_taking": (Version.V1, Task.TURN),
        "v1_0/synthetic_user_interruption": (Version.V1, Task.INTERRUPTION),
        "v1_0/icc_backchannel": (Version.V1, Task.BACKCHANNEL),
        "v1_5/talking_to_other": (Version.V15, "talking_to_other"),
        "v3": (Version.V3, "tool_use"),
    }
    assert found["v1_0/synthetic_user_interruption"].event == (10.5, 13.1)
    assert found["v1_5/talking_to_other"].event == (7.275, 11.467)
    assert found["v1_5/talking_to_other"].sounds == (
        ("input.wav", "output.wav"),
        ("clean_input.wav", "clean_output.wav"),
    )
    assert found["v3"].sounds == (("input.wav", "output_microturn.wav"),)


def test_one_subset_alone_is_read_as_well(root):
    (sample,) = layout.find(root / "v1_0" / "candor_turn_taking")
    assert (sample.subset, sample.task, sample.event) == (".", Task.TURN, (2.0, 2.4))


def test_samples_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 100):
        sound(tmp_path / "icc_backchannel" / str(number) / "input.wav")
    assert [sample.name for sample in layout.find(tmp_path)] == ["9", "10", "100"]


def test_a_copy_leaves_the_set_and_older_answers_alone(root, tmp_path_factory):
    own = root / "v1_5" / "talking_to_other" / "7"
    sound(own / "output.wav")
    told(own / "clean_output.json", {})
    to = tmp_path_factory.mktemp("copy")
    copies = layout.copied(layout.find(root), root, to)
    assert len(copies) == 6 and all(sample.folder.is_relative_to(to) for sample in copies)
    copied = {path.name for path in (to / "v1_5" / "talking_to_other" / "7").iterdir()}
    assert copied == {"input.wav", "clean_input.wav", "metadata.json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"pause\.json: expected a time stamp"),
        ([{"timestamp": [1]}], "not \\[1\\]"),
        (None, r"pause\.json"),
    ],
)
def test_an_annotation_of_another_shape_is_named(root, content, message):
    (sample,) = layout.find(root / "v1_0" / "candor_pause_handling")
    path = sample.folder / "pause.json"
    told(path, content) if content is not None else path.write_text("{")
    with pytest.raises(ValueError, match=message):
        _ = sample.event


def test_a_folder_without_samples_or_of_no_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no input.wav in any folder"):
        layout.find(tmp_path)
    sound(tmp_path / "something" / "1" / "input.wav")
    with pytest.raises(ValueError, match="which task is it of"):
        layout.find(tmp_path)


def test_words_are_written_as_the_recognition_step_does(root):
    (sample,) = layout.find(root / "v1_0" / "synthetic_user_interruption")
    said = [
        Word("one", 9.0, 9.4),
        Word("two", 13.0, 13.4),
        Word("three", 13.2, 13.6),
        Word("four", 14.0, None),
    ]
    layout.write_words(sample.folder / "output.json", layout.judged(sample, said))
    assert json.loads((sample.folder / "output.json").read_text()) == {
        "text": "three four",
        "chunks": [{"text": "three", "timestamp": [13.2, 13.6]}, {"text": "four", "timestamp": [14.0, None]}],
    }
    assert sample.words() == tuple(said[2:])


def test_captions_become_words_with_times():
    piece = lambda text: {"type": "caption", "turn": 1, "text": text}  # noqa: E731
    messages = [
        (1.0, piece("se")), (1.2, piece("ven eight")), (1.3, {"type": "cut", "turn": 1}), (1.6, piece("\nnine ")),
        (2.5, piece("zero")),
    ]  # fmt: skip
    found = words.of_captions(messages, [(1.02, 1.5), (1.62, 2.0)], 2.5)
    assert found == [Word("seven", 1.0, 1.2), Word("eight", 1.2, 1.5), Word("nine", 1.6, 2.0)]


def test_a_result_of_version_3_says_when_it_answered(root):
    (sample,) = layout.find(root / "v3")
    tone = (6000 * np.sin(2 * np.pi * 300 * np.arange(48_000) / 48_000)).astype(np.int16)
    soundfile.write(sample.folder / "input.wav", np.pad(tone, (48_000, 24_000)), 48_000)
    calls.write_output(sample.folder / "output_microturn.wav", np.pad(tone[::6], (21_600, 8_000)), 8_000)
    told_then = [(2.4, {"type": "task", "state": "asked", "request": "caller: 3 plus 4"})]
    calls.write_result(sample, figures.result_of(sample, None, told_then))
    ours = figures.of_subset([sample], {})
    assert ours["turn_take"] == 1.0 and ours["spoke_before_end"] == 0.0
    assert ours["first_response_p50_s"] == pytest.approx(0.7, abs=0.02)
    assert (ours["tool_calls"], ours["tool_call_p50_s"]) == (1, pytest.approx(0.4, abs=0.02))


def test_what_is_written_has_16_khz_and_its_length(tmp_path):
    calls.write_output(tmp_path / "output.wav", np.zeros(8_000, np.int16), 8_000)
    assert soundfile.info(tmp_path / "output.wav").samplerate == 16_000
    assert soundfile.info(tmp_path / "output.wav").frames == 16_000


def test_speech_is_found_where_it_is():
    rng = np.random.default_rng(5)
    pcm = rng.normal(0, 12, 5 * 16_000)
    for start_s, end_s in ((1.0, 1.4), (1.45, 2.0), (3.0, 3.02), (4.0, 4.5)):
        pcm[round(start_s * 16_000) : round(end_s * 16_000)] += rng.normal(
            0, 3_000, round((end_s - start_s) * 16_000)
        )
    found = stretches(pcm.astype(np.int16), 16_000)
    assert np.allclose(found, [(1.0, 2.0), (4.0, 4.5)], atol=0.011)
    assert stretches(rng.normal(0, 12, 16_000).astype(np.int16), 16_000) == []


def test_a_broken_set_stops_the_command(root, capsys):
    (root / "v1_0" / "candor_turn_taking" / "1" / "turn_taking.json").write_text("[]")
    assert main(["--data", str(root), "--words", "none"]) == 2
    assert "turn_taking.json: expected a time stamp [start, end]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"words": "captions"}, "captions are told to browsers"),
        ({"engine": "echo"}, "the reader knows the voice of digits"),
        ({"at_once": 0}, "--at-once must be 1 or more"),
        ({"data": Path("/nowhere")}, "/nowhere: no such folder"),
    ],
)
def test_what_cannot_be_run_is_refused(wish, message):
    given = {"data": None, "leg": "sip", "engine": "digits", "words": "reader"} | wish
    with pytest.raises(ValueError, match=message):
        Plan(**given)
