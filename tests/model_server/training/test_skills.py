"""Each skill's rules, by hand: words at these times, tokens in those turns. Every said word lasts two turns."""

from __future__ import annotations

import numpy as np
import pytest

from model_server.training import frames
from model_server.training.frames import Pictures
from model_server.training.skills import mixed
from model_server.training.skills.ask_for_help import AskForHelp
from model_server.training.skills.correct import Correct
from model_server.training.skills.count import Count
from model_server.training.skills.every import Every
from model_server.training.skills.interpret import Interpret
from model_server.training.skills.read_back import ReadBack
from tests.model_server.training.conftest import Perform
from tests.model_server.training.scenes import Times

SEVEN_TWO: Times = [("seven", 0.5, 0.9), ("two", 1.9, 2.3)]
"""Known by the end of turns 4 (0.8 .. 1.0 s, 0.1 s after the word) and 11."""


def test_words_are_written_a_tenth_of_a_second_after_their_end_and_stop_at_once(perform: Perform) -> None:
    times = [("seven", 0.1, 0.5), ("two", 0.8, 1.11), ("stop", 1.5, 1.98), ("stop", 3.0, 3.19)]
    assert perform([], times, 20) == {
        2: ("heard:7",),
        6: ("heard:2",),
        9: ("heard:stop",),
        16: ("heard:stop",),
    }


def test_other_words_of_a_turn_are_written_in_the_next(perform: Perform) -> None:
    times = [("one", 0.40, 0.41), ("two", 0.42, 0.43), ("oh", 0.44, 0.45)]
    assert perform([], times, 6) == {2: ("heard:1",), 3: ("heard:2",), 4: ("heard:0",)}


def test_a_known_number_of_digits_is_answered_at_once(perform: Perform) -> None:
    assert perform([ReadBack(2)], SEVEN_TWO, 20) == {
        4: ("heard:7", "<expect:1>"),
        11: ("heard:2", "<expect:2>", "say:7"),
        13: ("<expect:2>", "say:2"),
    }


def test_too_few_digits_are_answered_after_a_long_silence(perform: Perform) -> None:
    wrote = perform([ReadBack(3)], SEVEN_TWO, 40)
    assert wrote[23] == ("say:7",) and min(turn for turn in wrote if turn > 11) == 23


def test_without_a_count_a_pause_of_a_second_makes_it_wait_longer_than_that(perform: Perform) -> None:
    """1.3 * 1.0 + 0.3 = 1.6 s after 2.3 s: in the turn that ends at 4.0."""
    assert perform([ReadBack()], SEVEN_TWO, 30) == {
        4: ("heard:7", "<expect:1>"),
        11: ("heard:2", "<expect:2>"),
        19: ("say:7",),
        21: ("<expect:2>", "say:2"),
    }


def test_without_a_count_a_fluent_caller_is_answered_soon(perform: Perform) -> None:
    times = [
        (name, 0.5 + 0.4 * at, 0.8 + 0.4 * at) for at, name in enumerate(("one", "two", "six", "six", "oh"))
    ]
    wrote = perform([ReadBack()], times, 40)
    assert [wrote[turn] for turn in range(15, 30) if turn in wrote][0] == ("say:1",)
    assert min(turn for turn, say in wrote.items() if "say:1" in say) == 15, (
        "0.7 s after 2.4 s ends in turn 15"
    )


def test_a_digit_too_many_changes_nothing_of_the_answer(perform: Perform) -> None:
    wrote = perform([ReadBack(2)], [*SEVEN_TWO, ("six", 2.4, 2.6)], 30)
    assert {turn: say for turn, say in wrote.items() if turn > 11} == {
        13: ("heard:6", "<expect:2>", "say:2"),
    }


def test_the_second_digit_too_many_of_an_answer_to_a_known_number_begins_a_new_string(
    perform: Perform,
) -> None:
    names = ("one", "two", "three", "four")
    times = [(name, 0.5 + 0.25 * at, 0.7 + 0.25 * at) for at, name in enumerate(names)]
    wrote = perform([ReadBack(4)], [*times, ("six", 2.4, 2.65), ("oh", 2.7, 3.0)], 40)
    assert wrote[7] == ("heard:4", "<expect:4>", "say:1")
    assert {turn: say for turn, say in wrote.items() if turn > 7} == {
        9: ("<expect:2>", "say:2"),
        11: ("<expect:3>", "say:3"),
        13: ("heard:6", "<expect:4>", "say:4"),
        15: ("heard:0", "<expect:2>"),
        26: ("say:6",),
        28: ("<expect:2>", "say:0"),
    }


def test_a_digit_too_many_that_nothing_follows_begins_no_string(perform: Perform) -> None:
    wrote = perform([ReadBack(2)], [*SEVEN_TWO, ("six", 2.4, 2.6), ("oh", 4.2, 4.4), ("one", 4.6, 4.8)], 40)
    assert {turn: say for turn, say in wrote.items() if turn > 13} == {
        22: ("heard:0", "<expect:1>"),
        24: ("heard:1", "<expect:2>", "say:0"),
        26: ("<expect:2>", "say:1"),
    }


def test_digits_during_the_answer_silence_it_and_go_on_the_string(perform: Perform) -> None:
    """Answered 1.4 s after 1.4 s; then, after a pause of 1.5 s, 1.6 s after 3.1 s."""
    times = [("seven", 0.5, 0.9), ("two", 1.0, 1.4), ("six", 2.9, 3.1)]
    wrote = perform([ReadBack()], times, 60)
    assert {turn: say for turn, say in wrote.items() if turn > 7} == {
        13: ("say:7",),
        15: ("heard:6", "<expect:3>"),
        23: ("say:7",),
        25: ("<expect:2>", "say:2"),
        27: ("<expect:3>", "say:6"),
    }


def test_stop_silences_the_answer_in_its_turn_and_forgets_it(perform: Perform) -> None:
    times = [*SEVEN_TWO, ("stop", 2.4, 2.7), ("one", 4.0, 4.3)]
    wrote = perform([ReadBack(2)], times, 60)
    assert wrote[11] == ("heard:2", "<expect:2>", "say:7") and wrote[13] == ("heard:stop",)
    assert [turn for turn, say in wrote.items() if say == ("say:1",)] == [33], "2.4 s after 4.3 s"


def test_a_wrong_digit_is_corrected_while_the_caller_goes_on(perform: Perform) -> None:
    times = [("four", 0.2, 0.5), ("nine", 0.8, 1.1), ("two", 1.3, 1.6), ("six", 2.4, 2.7)]
    assert perform([Correct("4726")], times, 20) == {
        2: ("heard:4", "<digit:7>"),
        5: ("heard:9", "<digit:2>", "say:no"),
        7: ("say:7",),
        8: ("heard:2", "<digit:6>"),
        13: ("heard:6", "<digit:4>", "say:okay"),
    }


def test_after_a_silence_the_number_begins_anew(perform: Perform) -> None:
    times = [("four", 0.2, 0.5), ("four", 2.4, 2.7), ("nine", 2.9, 3.2)]
    assert perform([Correct("4726")], times, 20) == {
        2: ("heard:4", "<digit:7>"),
        9: ("<digit:4>",),
        13: ("heard:4", "<digit:7>"),
        16: ("heard:9", "<digit:2>", "say:no"),
        18: ("say:7",),
    }


def test_each_digit_is_interpreted_as_it_comes(perform: Perform) -> None:
    times = [("three", 0.2, 0.5), ("happy", 0.6, 0.8), ("oh", 0.9, 1.1), ("one", 1.2, 1.4)]
    assert perform([Interpret()], times, 20) == {
        2: ("heard:3", "say:tres"),
        5: ("heard:0", "say:cero"),
        7: ("heard:1", "say:uno"),
    }


def test_every_three_seconds_by_persona_until_stopped(perform: Perform) -> None:
    wrote = perform([Every(3)], [("five", 4.0, 4.3), ("stop", 7.0, 7.3)], 90)
    assert wrote == {15: ("say:3",), 21: ("heard:5",), 30: ("say:3",), 36: ("heard:stop",)}


def test_every_two_seconds_when_the_caller_asks_for_it(perform: Perform) -> None:
    times = [("every", 0.2, 0.5), ("two", 0.6, 0.9), ("seconds", 1.0, 1.3)]
    assert perform([Every(), ReadBack()], times, 30) == {
        2: ("heard:every",),
        4: ("heard:2",),
        6: ("heard:seconds", "say:okay"),
        16: ("say:2",),
        26: ("say:2",),
    }


def _pictures(changes: dict[int, int], turns: int) -> Pictures:
    return Pictures([()] * turns, changes, np.zeros((240, 320, 3), np.uint8), 0)


def test_changes_are_counted_in_their_turns_and_not_after_stop(perform: Perform) -> None:
    times = [("stop", 4.0, 4.3), ("count", 6.0, 6.3)]
    pictures = _pictures({3: 1, 4: 1, 10: 1, 25: 1, 40: 1}, 50)
    assert perform([Count()], times, 50, pictures=pictures) == {
        3: ("say:1",),
        5: ("say:2",),
        10: ("say:3",),
        21: ("heard:stop",),
        31: ("heard:count",),
        40: ("say:1",),
    }


def test_a_count_is_noted_while_nothing_changes(perform: Perform) -> None:
    changes = dict.fromkeys(range(0, 50, 5), 1)
    done = perform([Count()], [], 85, pictures=_pictures(changes, 85))
    notes = {turn: tokens for turn, tokens in done.items() if not tokens[-1].startswith("say:")}
    assert len(notes) == 2 and set(notes.values()) == {("<number:10>",)}
    first, second = notes
    assert 45 + 15 < first <= 45 + 18 and second == first + 15


def test_a_sum_is_delegated_and_its_result_said_when_nobody_speaks(perform: Perform) -> None:
    strings = ReadBack()
    times = [("three", 0.2, 0.5), ("plus", 0.6, 0.9), ("four", 1.0, 1.3), ("happy", 3.0, 3.5)]
    injected = {15: ("<result>", "<digit:7>")}
    assert perform([AskForHelp(strings), strings], times, 40, injected=injected) == {
        2: ("heard:3", "<expect:1>"),
        4: ("heard:plus",),
        6: ("heard:4", "<delegate>", "say:let-me-check"),
        20: ("say:7",),
    }


def test_how_many_is_delegated_after_the_question_and_a_failure_is_said(perform: Perform) -> None:
    injected = {10: ("<failed>",)}
    assert perform([AskForHelp()], [("how many", 0.2, 0.6), ("happy", 0.6, 1.1)], 30, injected=injected) == {
        3: ("heard:how-many",),
        6: ("<delegate>", "say:let-me-check"),
        10: ("say:i-do-not-know",),
    }


def test_all_skills_in_one_call(perform: Perform) -> None:
    times = [
        *(("one", 0.2, 0.5), ("plus", 0.7, 1.0), ("two", 1.2, 1.5)),
        *(("every", 3.0, 3.3), ("four", 3.4, 3.7), ("seconds", 3.8, 4.1)),
        *(("stop", 9.0, 9.3), ("nine", 10.0, 10.3)),
    ]
    assert perform(mixed.skills(), times, 70) == {
        2: ("heard:1", "<expect:1>"),
        5: ("heard:plus",),
        7: ("heard:2", "<delegate>", "say:let-me-check"),
        16: ("heard:every",),
        18: ("heard:4",),
        20: ("heard:seconds", "say:okay"),
        40: ("say:4",),
        46: ("heard:stop",),
        51: ("heard:9", "<expect:1>"),
        58: ("say:9",),
    }


@pytest.mark.parametrize("seed", range(6))
def test_pictures_change_where_they_say_so(seed: int) -> None:
    pictures = frames.drawn(np.random.default_rng(seed), 60)
    assert pictures.changes and max(pictures.changes) < 60
    still = [
        np.abs(pictures.picture(t).astype(int) - pictures.picture(t - 1)).mean()
        for t in range(1, 60)
        if pictures.scenes[t] == pictures.scenes[t - 1]
    ]
    assert max(still) <= 2 * pictures.noise
    assert pictures.picture(5).shape == (240, 320, 3)
