"""Personas as lines of words."""

from __future__ import annotations

import pytest

from model_server.engine.personas import DEFAULT, tokens_of
from model_server.model.vocabulary import NAMES


def names(persona: str) -> list[str]:
    return [NAMES[token] for token in tokens_of(persona)]


@pytest.mark.parametrize(
    ("persona", "expected"),
    [
        ("", ""),
        (DEFAULT, "<persona> <read-back> <help> <every>"),
        ("read-back expect=6", "<persona> <read-back> <expect:6>"),
        ("expect=16", "<persona> <read-back> <expect:16>"),
        ("help", "<persona> <read-back> <help>"),
        ("every help expect=3 read-back", "<persona> <read-back> <help> <every> <expect:3>"),
        ("Correct 482913", "<persona> <correct> " + " ".join(f"<digit:{d}>" for d in "482913")),
        ("interpret", "<persona> <interpret>"),
        ("count", "<persona> <count>"),
        ("every", "<persona> <every>"),
        ("every 5", "<persona> <every:5>"),
    ],
)
def test_a_persona_becomes_the_tokens_that_the_network_was_trained_with(persona, expected):
    assert names(persona) == expected.split()


@pytest.mark.parametrize(
    "persona",
    [
        *("sing", "correct", "correct 12", "correct 12345678901", "correct 48x9", "correct ١٢٣٤٥"),
        *("every 1", "every 10", "every five", "read-back expect=0", "read-back expect=17", "count help"),
        *("read-back every", "expect=3 expect=4", "read-back read-back", "interpret now", "expect="),
    ],
)
def test_anything_else_is_refused_with_what_is_possible(persona):
    with pytest.raises(
        ValueError, match="expected one of: read-back .*; correct DIGITS .*; interpret; every"
    ):
        tokens_of(persona)
