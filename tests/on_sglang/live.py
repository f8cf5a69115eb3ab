"""Calls that go on turn by turn under SGLang and in `digits`: how they differ is what is asserted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from structlog.testing import capture_logs

from tests.model_server.engine.conftest import batch_of, voice
from tests.on_sglang.conftest import TURN_S

PERSONA = "every 2"
"""Says a word every two seconds, whatever it hears."""
NO_ANSWER = f"no answer in {TURN_S:.1f} s"
WELL_AGAIN = 25
"""Turns in which a call says two words."""


class Calls:
    """In slots 0, 1, 2 ...; those of `digits` are not given what SGLang does not answer."""

    def __init__(self, ours: Any, theirs: Any, count: int) -> None:
        self.ours, self.theirs, self.slots = ours, theirs, range(count)
        self.turn, self.missed, self.words = 0, 0, 0
        self.pcm = {slot: voice(50 + slot, 400) for slot in self.slots}
        for engine in (ours, theirs):
            for slot in self.slots:
                engine.open(slot, PERSONA)

    def go_on(self, turns: int) -> None:
        """So many turns, and the same answers."""
        for _ in range(turns):
            ours, theirs = self.step(self.ours, self.turn), self.step(self.theirs, self.turn - self.missed)
            assert ours.said == theirs.said, self.turn
            self.words += sum(bool(said.text) for said in ours.said.values())
            self.turn += 1

    def miss(self) -> tuple[Any, list[Any]]:
        """A turn that may be without an answer, in bounded time; `digits` is not given it. Results, log."""
        begun_s = time.monotonic()
        with capture_logs() as logs:
            results = self.step(self.ours, self.turn)
        assert time.monotonic() - begun_s < TURN_S + 2
        self.turn += 1
        self.missed += 1
        return results, logs

    def miss_for(self, reason: str) -> None:
        """A turn without an answer: silence for every call, and why."""
        results, logs = self.miss()
        assert_unanswered(results, logs, len(self.slots), reason)

    def was_answered(self, results: Any) -> None:
        """What might have been missed was not: `digits` is given it, too."""
        self.turn -= 1
        self.missed -= 1
        assert self.step(self.theirs, self.turn - self.missed).said == results.said
        self.turn += 1

    def are_well_again(self) -> None:
        """They have forgotten nothing but what they missed."""
        lost, words = self.ours.rows.counts.sequences_lost_total, self.words
        self.go_on(WELL_AGAIN)
        assert self.words - words > len(self.slots)
        assert self.ours.rows.counts.sequences_lost_total == lost

    def step(self, engine: Any, turn: int) -> Any:
        """One turn of all; what is heard goes on, whatever the number of the turn is."""
        pcm = {slot: self.pcm[slot][self.turn] for slot in self.slots}
        return engine.step(batch_of(dict.fromkeys(self.slots, turn), pcm, played=0))

    def end(self) -> None:
        for engine in (self.ours, self.theirs):
            for slot in self.slots:
                engine.close(slot)


def assert_unanswered(results: Any, logs: Sequence[Any], calls: int, reason: str) -> None:
    """Silence, no words, and why."""
    assert not results.pcm_BS.any() and not any(said.text for said in results.said.values())
    assert [line["reason"].count(reason) for line in logs] == [1] * calls, logs


@contextmanager
def held(engine: Any, sessions: Sequence[str]) -> Iterator[None]:
    """Sessions past the guard rails, until the end of the block."""
    try:
        yield
    finally:
        engine.host.close_sessions(sessions)
