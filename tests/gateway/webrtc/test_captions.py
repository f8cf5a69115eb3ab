"""Captions come when their sound does, and say what was cut."""

from __future__ import annotations

from gateway.webrtc.captions import Captions, Cut


def test_a_caption_is_told_with_its_first_frame() -> None:
    captions = Captions()
    captions.say(4, 100, "one")
    captions.say(5, 110, "two")
    assert captions.heard(100) == []
    assert [s.text for s in captions.heard(101)] == ["one"]
    assert captions.heard(110) == []
    assert [s.turn for s in captions.heard(111)] == [5]


def test_a_stalled_clock_tells_them_all_in_order() -> None:
    captions = Captions()
    captions.say(1, 10, "a")
    captions.say(2, 20, "b")
    assert [s.text for s in captions.heard(40)] == ["a", "b"]


def test_a_cut_says_how_much_was_heard() -> None:
    captions = Captions()
    captions.say(1, 10, "heard to its end")
    captions.say(2, 20, "cut in the middle")
    captions.say(3, 30, "never begun")
    captions.heard(24)
    assert captions.cut(24) == [Cut(2, 80), Cut(3, 0)]
    assert captions.heard(99) == []


def test_what_nobody_pulls_is_bounded() -> None:
    captions = Captions()
    for turn in range(100):
        captions.say(turn, 10 * turn, "x")
    assert len(captions.heard(10_000)) <= 6
