"""The same network writes the same tokens under SGLang as in `digits`, in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from model_server.training import cases
from model_server.training.rehearsal import rehearse
from tests.model_server.engine.conftest import batch_of, voice
from tests.support.sglang_here import needs_sglang

pytestmark = needs_sglang


def tokens_of(engine: Any, chosen: list[cases.Case]) -> tuple[list[list[tuple[int, ...]]], Any]:
    """What was written in each turn of each case, and what was heard."""
    engine.written = {}
    heard = list(rehearse(engine, chosen))
    return list(engine.written.values()), heard


def test_conversations_of_every_skill_over_rolled_sessions(
    under_sglang: Any, in_torch: Any, data: Path
) -> None:
    """Digits, stop, corrections, timers, passing on, pictures: ten conversations and more at once."""
    chosen = cases.of(list(cases.SKILLS), 1, data)
    before = dataclasses.replace(under_sglang.rows.counts)
    ours, heard = tokens_of(under_sglang, chosen)
    theirs, expected = tokens_of(in_torch, chosen)
    for case, found, wanted in zip(chosen, ours, theirs, strict=True):
        assert found == wanted, case.name
    assert sum(map(len, theirs)) == sum(case.turns for case in chosen)
    assert sum(bool(turn) for turns in theirs for turn in turns) > 60
    assert [call.captions for call in heard] == [call.captions for call in expected]
    assert [call.actions for call in heard] == [call.actions for call in expected]
    after = under_sglang.rows.counts
    assert after.sessions_rolled_total - before.sessions_rolled_total > len(chosen)
    assert after.turns_unanswered_total == before.turns_unanswered_total


def test_a_call_alone_sounds_the_same_to_the_bit(under_sglang: Any, in_torch: Any, data: Path) -> None:
    chosen = cases.of(["paused"], 1, data)
    ours, heard = tokens_of(under_sglang, chosen)
    theirs, expected = tokens_of(in_torch, chosen)
    assert ours == theirs and any(theirs[0])
    assert np.array_equal(heard[0].pcm, expected[0].pcm) and np.abs(expected[0].pcm).max() > 1_000


def test_calls_that_come_and_go_get_rows_of_others_empty(under_sglang: Any, in_torch: Any) -> None:
    pcm = {slot: voice(slot, 40) for slot in range(6)}
    said: dict[str, list[Any]] = {"ours": [], "theirs": []}
    for kind, engine in (("ours", under_sglang), ("theirs", in_torch)):
        for tick in range(40):
            for slot in range(6):
                if tick == slot or tick == 20 + slot:  # a second call in the same slot
                    if tick >= 20:
                        engine.close(slot)
                    engine.open(slot, "every 2")
            now = {slot: (tick - slot) % 20 for slot in range(6) if slot <= tick}
            results = engine.step(batch_of(now, {slot: pcm[slot][tick] for slot in now}, played=0))
            said[kind].append(results.said)
            assert results.positions > 0
        for slot in range(6):
            engine.close(slot)
    assert said["ours"] == said["theirs"] and any(said["theirs"])
