"""Tokens to what a reply carries, and what a chunk carries to tokens."""

from __future__ import annotations

from model_server.engine.words import CONTEXT_BYTES, REMEMBERED_WORDS, Talk, read
from model_server.model.vocabulary import NAMES, ids_of


def test_said_words_are_the_caption_and_heard_words_are_not():
    talk = Talk()
    assert talk.write(ids_of(["heard:7", "say:7"])) == ("seven ", ("heard 7",))
    assert talk.write(ids_of(["heard:stop"])) == ("", ("heard stop",))
    assert talk.write(ids_of(["say:let-me-check"])) == ("let me check ", ())


def test_a_question_is_passed_on_with_the_conversation():
    talk = Talk()
    talk.write(ids_of(["heard:3", "heard:plus"]))
    text, events = talk.write(ids_of(["heard:4", "<delegate>", "say:let-me-check"]))
    assert text == "let me check " and events == ("heard 4", "delegate caller: 3 plus 4")
    assert talk.write(ids_of(["<delegate>"]))[1] == ("delegate caller: 3 plus 4; model: let me check",)


def test_actions_are_events():
    names = ["<hang-up>", "<send-dtmf:5>", "<send-dtmf:#>", "<show>", "<transfer>"]
    assert Talk().write(ids_of(names)) == ("", ("hangup", "dtmf 5", "dtmf #", "show", "transfer"))


def test_what_is_remembered_and_what_is_passed_on_is_bounded():
    talk = Talk()
    for _ in range(3 * REMEMBERED_WORDS):
        talk.write(ids_of(["heard:how-many", "say:17"]))
    assert len(talk.context().encode()) <= CONTEXT_BYTES
    assert talk.context().endswith("caller: how-many; model: seventeen")


def test_answers_are_read_and_nothing_else_is():
    names = [
        NAMES[token] for token in read("7\nresult 20\nfailed\nhello\n21", ("result 3", "dtmf 5", "hold"))
    ]
    assert names == [
        *("<result>", "<digit:7>", "<result>", "<number:20>", "<failed>"),
        *("<result>", "<digit:3>"),
    ]
    assert read("", ()) == ()
