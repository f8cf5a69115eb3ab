"""Evaluation: the ideal partner reaches every goal, and mistakes cost what they ought to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from media.timebase import MODEL_HZ, TURN_MS, TURN_SAMPLES
from model_server.engine.echo import EchoEngine
from model_server.model.vocabulary import SAID
from model_server.training import cases, scores
from model_server.training.cases import SKILLS, Case, Word
from model_server.training.channel import Codec, coded
from model_server.training.clip import PCM
from model_server.training.evaluate import judged, main
from model_server.training.lines import token_of
from model_server.training.mouth import SILENT, Mouth, VoiceTable, table_of
from model_server.training.partner import Heard as HeardWord
from model_server.training.partner import Partner, Skill, heard_turn
from model_server.training.reading import Reader, Spoken
from model_server.training.rehearsal import LAG_S, LAG_SAMPLES, Heard, rehearse
from model_server.training.scores import Read
from model_server.training.skills.ask_for_help import AskForHelp
from model_server.training.skills.correct import Correct
from model_server.training.skills.count import Count
from model_server.training.skills.every import Every
from model_server.training.skills.interpret import Interpret
from model_server.training.skills.read_back import ReadBack


@pytest.fixture(scope="module")
def chords() -> VoiceTable:
    """A voice whose words are chords, each unlike the others, of one to three turns."""
    words = {}
    for number, token in enumerate(SAID):
        turns = 1 + number % 3
        at = np.arange(turns * TURN_SAMPLES - 800) / MODEL_HZ
        rng = np.random.default_rng(number)
        pieces = [
            np.sin(2 * math.pi * hz * part)
            for part in np.array_split(at, 2 * turns)
            for hz in [rng.uniform(250, 3000)]
        ]
        words[token] = (6000 * np.concatenate(pieces)).astype(np.int16)
    return table_of(words)


@pytest.fixture(scope="module")
def reader(chords: VoiceTable) -> Reader:
    return Reader(chords)


def skills_of(persona: str) -> list[Skill]:
    strings = ReadBack()
    match persona.split():
        case ["correct", digits]:
            return [Correct(list(digits))]
        case ["read-back", "help"]:
            return [AskForHelp(strings), strings]
        case ["read-back", expect]:
            return [ReadBack(int(expect.removeprefix("expect=")))]
        case ["read-back"]:
            return [strings]
        case [name]:
            return [{"every": Every, "interpret": Interpret, "count": Count}[name]()]
    raise AssertionError(persona)


def ideal(case: Case, table: VoiceTable) -> Heard:
    """What the ideal partner would have been heard to say."""
    mouth = Mouth(table)
    partner = Partner(skills_of(case.persona), mouth)
    out = np.zeros(len(case.caller) + 2 * TURN_SAMPLES, np.int16)
    known: dict[int, list[HeardWord]] = {}
    last_s = -60.0
    for word in case.words:
        if token := token_of(word.label):
            turn = heard_turn(token, round(word.end_s * MODEL_HZ))
            known.setdefault(turn, []).append(HeardWord(token, max(0, int((word.start_s - last_s) * 1000))))
        last_s = word.end_s
    actions = []
    for turn in range(case.turns):
        injected: tuple[str, ...] = ()
        if turn in case.typed:
            number = int(case.typed[turn])
            injected = ("<result>", f"<digit:{number}>" if number < 10 else f"<number:{number}>")
        seen = case.pictures.changes.get(turn, 0) if case.pictures else 0
        silence_ms = silence(case.words, (turn + 1) * TURN_MS / 1000)
        done = partner.step(turn, known.get(turn, []), silence_ms, injected, seen)
        actions += [(turn, "delegate")] * ("<delegate>" in done.say)
        if done.voice != SILENT:
            row, at = done.voice
            start = (turn + 1) * TURN_SAMPLES + LAG_SAMPLES
            sound = table.sounds[row][at * TURN_SAMPLES : (at + 1) * TURN_SAMPLES]
            out[start : start + TURN_SAMPLES] = sound[: max(0, len(out) - start)]
    return Heard(case, coded(out[: len(case.caller)], Codec.MULAW), (), tuple(actions))


def silence(words: Sequence[Word], end_s: float) -> int:
    """Of the caller, as a stage tells it."""
    begun = [word for word in words if word.start_s + 0.06 <= end_s]
    if not begun:
        return 60_000
    return max(0, int((end_s - max(word.end_s for word in begun)) * 1000))


WANTED = {
    "connected": {"accuracy": 1.0, "take_over": 0.0, "answered": 1.0},
    "isolated": {"accuracy": 1.0},
    "paused": {"accuracy": 1.0, "take_over": 0.0, "answered": 1.0},
    "uncounted": {"accuracy": 1.0, "take_over": 0.0, "take_over_at_0.4": 0.0},
    "stop": {"speaking": 1.0, "silent_within_400_ms": 1.0},
    "disturbed": {"speaking": 1.0, "false_stops": 0.0},
    "correct": {"interrupted": 1.0, "right": 1.0, "false_interruptions": 0.0},
    "every": {"on_time": 1.0, "on_time_less_besides": 1.0, "confirmed": 1.0},
    "interpret": {"accuracy": 1.0, "spoke_while_the_caller_did": 1.0},
    "delegate": {"passed_on": 1.0, "answered": 1.0},
    "count": {"within_one": 1.0, "mean_error": 0.0},
}


@pytest.mark.parametrize("skill", [name for name in SKILLS if name not in ("every", "delegate")])
def test_the_ideal_partner_reaches_every_goal(
    data: Path, chords: VoiceTable, reader: Reader, skill: str
) -> None:
    calls = [ideal(case, chords) for case in cases.of([skill], 3, data)]
    assert len(calls) == 3
    figures = judged([Read(heard, reader.read(heard.pcm)) for heard in calls], None)[skill]
    assert {name: figures[name] for name in WANTED[skill]} == WANTED[skill]
    delay = figures.get("latency_p50_s", figures.get("interruption_p50_s"))
    assert delay is None or skill == "uncounted" or 0.1 <= float(delay) <= 0.4


def test_cases_are_the_same_every_time_and_of_unseen_speakers(data: Path) -> None:
    first, again = (cases.of(["paused", "stop", "correct"], 2, data) for _ in range(2))
    assert all((a.caller == b.caller).all() and a.words == b.words for a, b in zip(first, again, strict=True))
    assert all(len(case.caller) % TURN_SAMPLES == 0 for case in first)
    with pytest.raises(ValueError, match="expected some of connected"):
        cases.of(["sing"], 1, data)


def test_a_rehearsal_hears_each_reply_a_lag_after_its_turn() -> None:
    pcm = np.zeros(12 * TURN_SAMPLES, np.int16)
    pcm[3 * TURN_SAMPLES : 4 * TURN_SAMPLES] = 4000 * np.sin(np.arange(TURN_SAMPLES) * 0.4)
    case = Case("paused", "echo", "", pcm, (), ())
    (heard,) = rehearse(EchoEngine(), [case], Codec.OPUS)
    loud = np.flatnonzero(np.abs(heard.pcm) > 2000)
    assert len(heard.pcm) == len(pcm)
    assert loud[0] / MODEL_HZ == pytest.approx(4 * TURN_MS / 1000 + LAG_S, abs=0.002)


def call(spoken: Sequence[Spoken], case: Case) -> Read:
    """A call in which these words sounded."""
    pcm: PCM = np.zeros(len(case.caller), np.int16)
    for word in spoken:
        pcm[round(word.start_s * MODEL_HZ) : round(word.end_s * MODEL_HZ)] = 3000
    return Read(Heard(case, pcm), tuple(spoken))


def case_of(skill: str, expected: tuple[str, ...], event_s: float = 0.0, seconds: int = 0) -> Case:
    words = tuple(Word("one", 1.0 + at, 1.4 + at) for at in range(3))
    return Case(skill, "a", "", np.zeros(MODEL_HZ * 12, np.int16), words, expected, event_s, seconds)


def words(*said: tuple[str, float]) -> list[Spoken]:
    return [Spoken(word, at, at + 0.4) for word, at in said]


def test_accuracy_counts_what_is_wrong_left_out_and_put_in() -> None:
    case = case_of("paused", ("1", "1", "1"))
    assert scores.errors(["1", "2"], ["1", "1", "1"]) == 2
    assert scores.accuracy([call(words(("1", 4.0), ("1", 4.4), ("2", 4.8), ("2", 5.2)), case)]) == 0.333


def test_a_word_inside_the_string_is_a_take_over_and_has_no_latency() -> None:
    case = case_of("paused", ("1", "1", "1"))
    early, late = call(words(("1", 2.6)), case), call(words(("1", 3.7)), case)
    figures = scores.read_back([early, late])
    assert (figures["take_over"], figures["early"], figures["answered"]) == (0.5, 0.0, 0.5)
    assert figures["latency_p50_s"] == pytest.approx(0.3, abs=0.011)


def test_a_word_over_the_last_one_is_early_and_no_take_over() -> None:
    case = case_of("paused", ("1", "1", "1"))
    figures = scores.read_back([call(words(("1", 3.2)), case), call(words(("1", 3.7)), case)])
    assert (figures["take_over"], figures["early"], figures["answered"]) == (0.0, 0.5, 1.0)
    assert scores.latencies_s([call(words(("1", 3.2)), case)]) == [0.0]


def test_stop_is_from_the_end_of_the_word_to_the_last_sound() -> None:
    case = replace(case_of("stop", ("1",) * 8, event_s=3.4))
    goes_on = call(words(*(("1", 2.0 + 0.4 * at) for at in range(8))), case)
    stops = call(words(*(("1", 2.0 + 0.4 * at) for at in range(4))), case)
    figures = scores.stops([goes_on, stops])
    assert figures["speaking"] == 1.0 and figures["silent_within_400_ms"] == 0.5
    assert figures["stop_latency_p50_s"] == pytest.approx((0.2 + 1.8) / 2, abs=0.03)
    quiet = call([], case)
    assert scores.stops([quiet])["speaking"] == 0.0


def test_a_string_that_breaks_off_at_a_cough_is_a_false_stop() -> None:
    case = case_of("disturbed", ("1",) * 8, event_s=3.0)
    whole = call(words(*(("1", 2.0 + 0.4 * at) for at in range(8))), case)
    broken = call(words(*(("1", 2.0 + 0.4 * at) for at in range(3))), case)
    assert scores.disturbed([whole, broken])["false_stops"] == 0.5


def test_a_no_before_the_wrong_digit_is_false() -> None:
    wrong, right = case_of("correct", ("no", "4"), 2.4), case_of("correct", ("okay",), 1e9)
    calls = [
        call(words(("no", 2.7), ("4", 3.1)), wrong),
        call(words(("no", 1.5), ("4", 1.9)), right),
    ]
    figures = scores.corrections(calls)
    assert (figures["interrupted"], figures["right"], figures["false_interruptions"]) == (1.0, 1.0, 0.5)
    assert figures["interruption_p50_s"] == pytest.approx(0.3, abs=0.011)


def test_periods_count_from_the_request_and_what_is_said_besides_is_taken_off() -> None:
    case = case_of("every", ("okay", "2", "2", "2"), event_s=2.0, seconds=2)
    figures = scores.periods([call(words(("okay", 2.3), ("2", 4.3), ("2", 6.7), ("2", 8.2)), case)])
    assert figures == {"on_time": 0.667, "on_time_less_besides": 0.333, "confirmed": 1.0}


def test_without_a_checkpoint_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", str(tmp_path / "none")]) == 2
    assert "train one" in capsys.readouterr().err
