"""SGLang's own Inkling as our trunk, on a CPU: `inkling_beside.py` has run both in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.sglang_here import needs_sglang

pytestmark = needs_sglang

TOLERANCE = 1e-4
"""Of the norm; float32 in both."""


@pytest.fixture(scope="module")
def beside() -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.on_sglang.inkling_beside"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stderr[-4_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_parameter_is_filled_by_our_tensors_and_none_is_left_over(beside: dict[str, Any]) -> None:
    assert beside["filled"] == beside["parameters"] > 60
    assert beside["unfilled"] == []
    ours, theirs = beside["elements"]
    assert ours == theirs  # so each of ours went to one place, once


def test_its_layers_give_the_rows_of_ours_piece_by_piece(beside: dict[str, Any]) -> None:
    assert beside["trunk_differs"] < TOLERANCE


def test_turns_of_two_requests_say_and_sound_what_ours_do(beside: dict[str, Any]) -> None:
    assert beside["same_tokens"] and beside["turns_differ"] < TOLERANCE
    assert beside["written"] > beside["full"] > 0  # turns that ended by themselves, and by their limit
