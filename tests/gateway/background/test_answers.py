"""Words of a model, joined to what is worth a turn; and a text as the line that a chunk carries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.background.answers import LONGEST_WAIT_S, Pieces, lines_of, number_line
from gateway.background.records import MOST_PIECE_BYTES


class Clock:
    now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


def test_sentences_are_pieces() -> None:
    pieces = Pieces(Clock())
    assert pieces.add("It left") == [] and pieces.add(" on Monday") == []
    assert pieces.add(". It was in Lyon! And") == ["It left on Monday.", " It was in Lyon!"]
    assert pieces.add(" 3.5 kg") == [] and pieces.rest() == " And 3.5 kg" and pieces.rest() == ""


def test_words_that_wait_go_without_their_end() -> None:
    clock = Clock()
    pieces = Pieces(clock)
    assert pieces.waits_s is None
    pieces.add("It left on Mon")
    clock.now_s += 0.2
    assert pieces.waits_s == pytest.approx(LONGEST_WAIT_S - 0.2)
    clock.now_s += LONGEST_WAIT_S
    assert pieces.waits_s == 0.0 and pieces.due() == "It left on " and pieces.rest() == "Mon"


@given(st.lists(st.text(max_size=700), max_size=12))
def test_nothing_is_lost_and_every_piece_has_its_bound(texts: list[str]) -> None:
    pieces, made = Pieces(Clock()), list[str]()
    for text in texts:
        made += pieces.add(text)
    made.append(pieces.rest())
    assert "".join(made) == "".join(texts)
    assert all(len(piece.encode()) <= MOST_PIECE_BYTES for piece in made)


def test_lines_hold_one_breath_each() -> None:
    assert list(lines_of(" It is\tseven.\n\n Bye ")) == ["result It is seven.", "result Bye"]
    assert list(lines_of("\n \n")) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("7", "result 7"), (" 20\n", "result 20"), ("It is 7.", "result 7"), ("7, yes 7", "result 7"),
        ("21", "failed"), ("-1", "failed"), ("3 + 4 is 7", "failed"), ("none", "failed"), ("", "failed"),
        ("7.5", "failed"), ("1,000", "failed"), ("7th", "failed"), ("9" * 400, "failed"),
    ],
)  # fmt: skip
def test_who_reads_numbers_gets_one_or_is_told_that_there_is_none(text: str, line: str) -> None:
    assert number_line(text) == line
