"""The shipped model moves to another server in the middle of its speech: it sounds as if it had not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from media.chunk import PCM, Chunk
from media.slots import SlotTable
from media.timebase import TURN_NS, TURN_SAMPLES
from media.turn_log import LOG_TURNS
from model_server.engine.digits import DigitsEngine
from model_server.engine.registry import CHECKPOINT
from model_server.server import ModelServer
from model_server.training.cases import connected
from tests.model_server.test_moving import Way
from tests.model_server.test_server import Node

DATA = Path(__file__).parents[3].parent / "shared" / "data"
FULL_SCALE = 32_768
CLOSE = 1e-3 * FULL_SCALE
LOUD = 1_000
LAG_SAMPLES = 960
"""Of our own speech, still queued when a chunk is cut."""

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}: they are not part of this tree"),
    pytest.mark.skipif(not CHECKPOINT.is_file(), reason="no trained model here"),
]


class Speaking(Node):
    """A node with the shipped model."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * TURN_NS
        self.table = SlotTable.create(2, groups=1)
        self.server = ModelServer(self.table, DigitsEngine(CHECKPOINT), lambda: self.now_ns)


def caller(silent_turns: int) -> tuple[np.ndarray, str]:
    """int16 [turns, 3200] of somebody who is silent, reads out a number and waits for the answer; the persona."""
    (case,) = connected(DATA, 1)
    turns = silent_turns + -(-len(case.caller) // TURN_SAMPLES) + 25
    pcm = np.zeros((turns, TURN_SAMPLES), np.int16)
    begin = silent_turns * TURN_SAMPLES
    pcm.reshape(-1)[begin : begin + len(case.caller)] = case.caller
    return pcm, case.persona


def heard(pcm: np.ndarray, persona: str, moves_at: int | None = None) -> tuple[list[PCM], str, int]:
    """What the caller hears, what is written, and the first turn that the new server answered (-1: none)."""
    way = Way(Speaking(), Speaking(), persona)
    for turn in range(len(pcm)):
        if turn == moves_at:
            way.begin()
        played = 0 if turn == 0 else TURN_SAMPLES - (LAG_SAMPLES if turn == 1 else 0)
        way.turn(Chunk(0, turn, 0, pcm[turn], played_samples=played), slack_ns=TURN_NS * 20)
    assert [reply.turn for _, reply in way.replies] == list(range(len(pcm)))
    first = next((reply.turn for is_new, reply in way.replies if is_new), -1)
    way.close()
    return [reply.pcm for _, reply in way.replies], " ".join(reply.text for _, reply in way.replies), first


def speaking_turns(sound: list[PCM]) -> list[int]:
    return [turn for turn, pcm in enumerate(sound) if np.abs(pcm.astype(np.int32)).max() > LOUD]


def apart(one: list[PCM], other: list[PCM]) -> int:
    return max(int(np.abs(a.astype(np.int32) - b).max()) for a, b in zip(one, other, strict=True))


def test_no_sample_is_another_when_the_log_goes_back_to_the_first_turn() -> None:
    pcm, persona = caller(0)
    stayed, written, _ = heard(pcm, persona)
    speech = speaking_turns(stayed)
    assert len(speech) > 6 and speech[-1] < LOG_TURNS, "the model says nothing, or too late"
    for moves_at in (speech[1], speech[len(speech) // 2], speech[-2]):
        moved, also_written, first = heard(pcm, persona, moves_at)
        assert moves_at <= first <= moves_at + 1, "in the middle of its speech"
        assert apart(stayed, moved) <= CLOSE and also_written == written


def test_an_older_call_says_the_same_in_the_same_turns() -> None:
    """Not with the same wave form: the phase of its pulses counts from where its log begins."""
    pcm, persona = caller(LOG_TURNS)
    stayed, written, _ = heard(pcm, persona)
    speech = speaking_turns(stayed)
    moved, also_written, first = heard(pcm, persona, speech[len(speech) // 2])
    assert speech[0] < first < speech[-1] and apart(stayed[:first], moved[:first]) == 0
    assert also_written == written and speaking_turns(moved) == speech
