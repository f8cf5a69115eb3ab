"""Tokens: one id each, and captions of said words alone."""

from __future__ import annotations

import pytest

from model_server.model.vocabulary import ACTIONS, END, HEARD, IDS, NAMES, SAID, SIZE, caption_of, ids_of


def test_every_token_has_one_id() -> None:
    assert len(NAMES) == len(set(NAMES)) == SIZE == 256
    assert all(NAMES[number] == name for name, number in IDS.items())
    assert END == 0


def test_what_the_skills_need_is_there() -> None:
    needed = [f"heard:{digit}" for digit in range(10)] + [f"say:{number}" for number in range(21)]
    needed += [
        "heard:stop",
        "heard:plus",
        "heard:how-many",
        "heard:every",
        "say:no",
        "say:okay",
        "say:let-me-check",
    ]
    needed += ["say:cero", "say:nueve", "<delegate>", "<hang-up>", "<show>", "<send-dtmf:#>", "<read-back>"]
    needed += [f"<expect:{count}>" for count in range(1, 17)] + [
        f"<every:{seconds}>" for seconds in range(2, 10)
    ]
    needed += ["<correct>", "<interpret>", "<count>", "<help>", "<result>", "<failed>", "<digit:0>"]
    assert [name for name in needed if name not in IDS] == []


def test_a_caption_is_what_is_said() -> None:
    tokens = ids_of(["heard:3", "say:3", "<delegate>", "say:let-me-check", "say:tres", "say:70"])
    assert caption_of(tokens) == "three let me check tres seventy"
    assert caption_of(ids_of([*HEARD, *ACTIONS])) == ""
    assert all(caption_of(ids_of([name])) for name in SAID)


def test_a_name_that_is_no_token_is_named() -> None:
    with pytest.raises(ValueError, match="say:eleventy"):
        ids_of(["say:3", "say:eleventy"])
