"""Running text over turns: what is met, when, and since when."""

from __future__ import annotations

import random
import time

import pytest

from gateway.safety.normal import normalise
from gateway.safety.policy import Rule
from gateway.safety.watch import MOST_KEPT, Watch


def words(*phrases: str, name: str = "r") -> Rule:
    return Rule(name, "cut", tuple(normalise(f"{phrase} ") for phrase in phrases))


def met(rules: list[Rule], *pieces: str, patient: bool = False) -> list[tuple[int, str, int]]:
    """Turn, rule and turn of the first word of every match."""
    watch = Watch(rules, patient=patient)
    return [
        (turn, each.rule.name, each.since)
        for turn, piece in enumerate(pieces)
        for each in watch.hear(turn, piece)
    ]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Damn it!", " damn it "),
        ("", " "),
        ("...", " "),
        ("don't -- well-known", " don t well known"),
        ("ＦＵＬＬ ｗｉｄｔｈ", " full width"),
        ("GROẞ Straße", " gross strasse"),
        ("Mu\u0308ller", " müller"),
        ("da\u200bmn so\u00adft", " damn soft"),
        ("做炸弹", " 做 炸 弹 "),
        ("नमस्ते", " नमस्ते"),
        ("x²", " x2"),
        ("naïve_word", " naïve word"),
    ],
)
def test_text_as_rules_see_it(text: str, seen: str) -> None:
    assert normalise(text) == seen


def test_a_phrase_is_met_over_turns_and_told_once() -> None:
    rule = words("go to hell")
    assert met([rule], "well, Go ", "", "to ", "", "HELL, ", "then ", "") == [(4, "r", 0)]
    assert met([rule], "go to hell. Go", " to hell") == [(0, "r", 0), (1, "r", 0)]


def test_words_begin_and_end_where_they_do() -> None:
    rule = words("ass", "hell")
    assert met([rule], "class, assess, shell, hello ") == []
    assert met([rule], "cl", "ass ") == []
    assert met([rule], "(ass)") == [(0, "r", 0)]


def test_a_word_in_pieces_is_met_with_its_last_one() -> None:
    assert met([words("seven")], "six sev", "en ", "eight ") == [(1, "r", 0)]
    assert met([words("seven")], "seven", "", "") == [(0, "r", 0)]


def test_what_may_go_on_counts_at_once_or_after_a_turn_of_patience() -> None:
    pieces = ("oh hell", "o there ")
    assert met([words("hell")], *pieces) == [(0, "r", 0)]
    assert met([words("hell")], *pieces, patient=True) == []
    assert met([words("hell")], "oh hell", "", "", patient=True) == [(1, "r", 0)]
    assert met([words("hell")], "oh hell", " no ", patient=True) == [(1, "r", 0)]
    assert met([words("hell")], "oh hell ", patient=True) == [(0, "r", 0)]
    assert met([words("hell")], "oh h", "ell", "", "", patient=True) == [(2, "r", 0)]


def test_marks_that_come_after_their_letter_change_it() -> None:
    assert met([words("müll")], "mu", "\u0308ll ") == [(1, "r", 0)]
    assert met([words("炸弹")], "做炸", "弹的") == [(1, "r", 0)]


def test_several_rules_are_met_in_one_turn_each_in_its_place() -> None:
    rules = [words("one two", name="a"), words("two", name="b"), words("three", name="c")]
    assert met(rules, "one ", "two ") == [(1, "a", 0), (1, "b", 1)]


def test_patterns_see_small_letters_and_single_blanks_over_turns() -> None:
    card = Rule("card", "cut", pattern=r"(\d ?){13,16}")
    digits = "4111-1111 1111 1111"
    found = met([card], *digits)
    assert found and found[0][1:] == ("card", 0) and found[0][0] == digits.index("1", 15)
    assert met([card], "four 1", "2 3 ", "4 5") == []
    around = Rule("p", "cut", pattern=r" (kill|hurt) (him|her) ")
    assert met([around], "I will KILL ", "her", "", patient=True) == [(2, "p", 0)]
    assert met([around], "skill her ") == []
    assert met([around], "kill him, kill her ", "kill him ") == [(0, "p", 0), (1, "p", 1)]


def test_long_calls_keep_the_end_of_their_text() -> None:
    watch, rng = Watch([words("red zebra")]), random.Random(3)
    for turn in range(3_000):
        assert watch.hear(turn, rng.choice(["a word ", "of mine. ", "", "and red "])) == []
    assert [each.since for each in watch.hear(3_000, "... red ")] == []
    assert [each.since for each in watch.hear(3_001, "zebra ")] == [3_000]
    assert watch._letters <= 2 * MOST_KEPT + 9


def test_what_was_forgotten_changes_nothing_of_what_is_met() -> None:
    """Against a search in the whole text, for random pieces and cuts of them."""
    rng = random.Random(7)
    for round_ in range(5):
        text = "".join(rng.choice("ab ") for _ in range(400)) * 10
        pieces, at = [], 0
        while at < len(text):
            size = rng.randint(1, 9)
            pieces.append(text[at : at + size])
            at += size
        rule = words("ab ba", "aaa")
        turns = {
            turn
            for turn, _, _ in met([rule], *(p + " " * (i == len(pieces) - 1) for i, p in enumerate(pieces)))
        }
        wanted, whole = set(), ""
        for turn, piece in enumerate(pieces):
            before, whole = normalise(whole), whole + piece
            now = normalise(whole)
            now += " " * (not now.endswith(" "))
            for phrase in rule.words:
                end = -1
                while (end := now.find(phrase, end + 1)) >= 0:
                    if end + len(phrase) - 1 > len(before.rstrip(" ")):
                        wanted.add(turn)
        assert turns == wanted, round_


def test_patience_finds_the_same_and_no_beginnings_of_longer_words() -> None:
    rng = random.Random(11)
    for _ in range(400):
        text = "".join(rng.choice("aab ") for _ in range(rng.randint(1, 24)))
        pieces, rest = [], text
        while rest:
            size = rng.randint(1, 5)
            pieces.append(rest[:size])
            rest = rest[size:]
        rule = words("ab a", "aa")
        found = met([rule], *pieces, "", "", patient=True)
        assert bool(found) == any(phrase in normalise(f"{text} ") for phrase in rule.words), (text, pieces)


def test_fifty_rules_take_less_than_a_millisecond_a_turn() -> None:
    rules = [words(f"forbidden phrase {n}", f"word{n}", name=f"w{n}") for n in range(40)]
    rules += [Rule(f"p{n}", "cut", pattern=rf"(\d ?){{13,16}} x{n}") for n in range(10)]
    watch, took = Watch(rules), []
    for turn in range(1_000):
        began = time.perf_counter()
        watch.hear(turn, f"quite normal words {turn} ")
        took.append(time.perf_counter() - began)
    assert sorted(took)[500] < 0.001, sorted(took)[500]
