"""The shipped model, killed in the middle of what a caller reads out: its heir reads it back whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from media.chunk import Flags
from media.timebase import TURN_SAMPLES
from media.turn_log import TurnLog, unpack
from model_server.engine.digits import DigitsEngine
from model_server.engine.registry import CHECKPOINT
from model_server.training.cases import Case, connected
from tests.model_server.engine.conftest import batch_of, chunk_of

DATA = Path(__file__).parents[3].parent / "shared" / "data"
TRIES = 6
QUIET_TURNS = 25
"""After the caller's last word: the read-back of four to six digits takes less."""


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}: they are not part of this tree")
@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="no trained model here")
def test_a_string_begun_before_the_crash_and_ended_after_it_is_read_back_whole() -> None:

    assert any(_is_read_back_by_both(case) for case in connected(DATA, TRIES)), "the model reads none back"


def _is_read_back_by_both(case: Case) -> bool:
    """False where the model that lived misheard it."""
    turns = -(-len(case.caller) // TURN_SAMPLES) + QUIET_TURNS
    pcm = np.zeros((turns, TURN_SAMPLES), np.int16)
    pcm.reshape(-1)[: len(case.caller)] = case.caller
    middle = case.words[len(case.words) // 2].start_s
    died = int(middle * 16_000) // TURN_SAMPLES + 1

    def said_by(engine: DigitsEngine, first: int, log: TurnLog) -> str:
        text = ""
        for turn in range(first, turns):
            chunk = chunk_of(turn, pcm[turn])
            results = engine.step(batch_of({0: turn}, {0: pcm[turn]}, chunks={0: chunk}))
            text += results.said[0].text if 0 in results.said else ""
            if turn < died:
                log.add(chunk)
                log.answer(turn)
        return text

    lived, log = DigitsEngine(CHECKPOINT), TurnLog()
    lived.open(0, case.persona)
    whole = said_by(lived, 0, log).split()
    labels = [word.label for word in case.words]
    if whole[-len(labels) :] != labels:
        return False
    heir = DigitsEngine(CHECKPOINT)
    heir.open(0, case.persona)
    for chunk in unpack(log.pack(), 2):
        assert Flags.ANSWERED in chunk.flags
        heir.step(batch_of({}, {}, earlier={0: [chunk]}))
    rebuilt = said_by(heir, died, TurnLog()).split()
    assert rebuilt[-len(labels) :] == labels
    return True
