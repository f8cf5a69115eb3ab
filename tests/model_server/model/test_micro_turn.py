"""The order of positions in a turn, and what is to be predicted where."""

from __future__ import annotations

import numpy as np
import pytest

from model_server.model.micro_turn import TABLE, Kind, MicroTurn, lay_out, truth_of
from model_server.model.vocabulary import END

V, T, H, S, P = Kind.VIDEO, Kind.TEXT, Kind.HEAR, Kind.SAY, Kind.SPEAK


def turn(patches: int = 0, text: tuple[int, ...] = (), say: tuple[int, ...] = ()) -> MicroTurn:
    levels = np.zeros((4, 80), np.uint8)
    picture = np.zeros((patches, 2, 40, 40, 3), np.float32) if patches else None
    return MicroTurn(levels, levels, np.zeros(4, np.uint8), picture, text, say)


def test_the_table_is_the_order() -> None:
    assert [part.kind for part in TABLE] == [V, T, H, S, P]
    layout = lay_out([turn(2, (30, 31), (40, 41))], say_limit=3)
    assert layout.kinds.tolist() == [V, V, T, T, H, H, H, H, S, S, P, P, P, P]


def test_the_last_hear_position_predicts_the_first_token_and_the_last_token_the_end() -> None:
    layout = lay_out([turn(2, (30,), (40, 41))], say_limit=3)
    assert layout.targets.tolist() == [-1] * 6 + [40, 41, END] + [-1] * 4


def test_a_silent_turn_predicts_its_end() -> None:
    layout = lay_out([turn()], say_limit=3)
    assert layout.kinds.tolist() == [H] * 4 + [P] * 4
    assert layout.targets.tolist() == [-1, -1, -1, END, -1, -1, -1, -1]


def test_a_full_turn_has_no_end_to_predict() -> None:
    layout = lay_out([turn(say=(40, 41, 42))], say_limit=3)
    assert layout.targets.tolist() == [-1, -1, -1, 40, 41, 42, -1, -1, -1, -1, -1]


def test_turns_follow_one_another() -> None:
    layout = lay_out([turn(), turn(1, say=(9,)), turn()], say_limit=3)
    assert layout.turns.tolist() == [0] * 8 + [1] * 10 + [2] * 8
    assert layout.where(S).tolist() == [13] and layout.targets[[12, 13]].tolist() == [9, END]


def test_more_tokens_than_the_limit_are_our_mistake() -> None:
    with pytest.raises(AssertionError):
        lay_out([turn(say=(1, 2, 3, 4))], say_limit=3)


def test_truth_has_a_level_for_none_some_and_all() -> None:
    assert truth_of([0, 1, 266, 267, 533, 534, 800, 900]).tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
