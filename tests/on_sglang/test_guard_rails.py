"""What SGLang is known to hang in, provoked: refused or rolled over, said, and other calls unharmed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from model_server.engine.sglang.host import Answer
from model_server.engine.sglang.turn_item import TurnItem
from tests.model_server.engine.conftest import batch_of, voice
from tests.on_sglang.conftest import CALLS, SESSION_TOKENS, TURN_S, scheduler
from tests.support.sglang_here import needs_sglang

pytestmark = needs_sglang

STRANGER = CALLS - 1
"""A row of the model that no call of these tests has, but where all have one: the lowest is given first."""
MOST_LEFT = 120
ONE_TURN = 9
"""Tokens that an empty turn adds: its positions, and the end of the turn before."""
PERSONA = "every 2"
"""Says a word every two seconds, whatever it hears."""


class Calls:
    """Calls that go on turn by turn, in SGLang and in `digits`; how they differ is what is asserted."""

    def __init__(self, ours: Any, theirs: Any, slots: range) -> None:
        self.ours, self.theirs, self.slots = ours, theirs, slots
        self.turn, self.missed, self.words = 0, 0, 0
        self.pcm = {slot: voice(50 + slot, 400) for slot in slots}
        for engine in (ours, theirs):
            for slot in slots:
                engine.open(slot, PERSONA)

    def go_on(self, turns: int) -> None:
        """So many turns, and the same answers."""
        for _ in range(turns):
            ours, theirs = self.step(self.ours, self.turn), self.step(self.theirs, self.turn - self.missed)
            assert ours.said == theirs.said, self.turn
            self.words += sum(bool(said.text) for said in ours.said.values())
            self.turn += 1

    def miss(self) -> tuple[Any, list[Any], float]:
        """A turn that SGLang does not answer, and that `digits` is not given: results, log, seconds."""
        begun_s = time.monotonic()
        with capture_logs() as logs:
            results = self.step(self.ours, self.turn)
        self.turn += 1
        self.missed += 1
        return results, logs, time.monotonic() - begun_s

    def step(self, engine: Any, turn: int) -> Any:
        pcm = {slot: self.pcm[slot][self.turn] for slot in self.slots}
        return engine.step(batch_of(dict.fromkeys(self.slots, turn), pcm, played=0))

    def end(self) -> None:
        for engine in (self.ours, self.theirs):
            for slot in self.slots:
                engine.close(slot)


@pytest.fixture
def calls(under_sglang: Any, in_torch: Any) -> Iterator[Callable[[int], Calls]]:
    made: list[Calls] = []

    def make(count: int) -> Calls:
        made.append(Calls(under_sglang, in_torch, range(count)))
        return made[-1]

    yield make
    for each in made:
        each.end()


def strangers(engine: Any, count: int) -> list[str]:
    """Sessions past the guard rails, as long as SGLang has rows for them."""
    sessions: list[str] = []
    for number in range(count):
        sessions.append(engine.host.open_sessions(1)[0])
        if not appended(engine, sessions[-1], number, 0):
            break
    return sessions


def fill(engine: Any) -> list[str]:
    """Sessions past the guard rails that hold nearly all of SGLang's tokens; what is left is less than
    `MOST_LEFT`. A session whose turn is not answered loses all that it holds, so the last ones are small."""
    limits = engine.rows.limits
    left, sessions = limits.total_tokens - engine.rows.tokens_held, []
    while left > MOST_LEFT // 2:
        number = len(sessions)
        sessions.append(engine.host.open_sessions(1)[0])
        for turn in range(min(limits.context - 40, left - MOST_LEFT // 2) // ONE_TURN + 1):
            if not appended(engine, sessions[-1], number, turn):
                assert left < 2 * MOST_LEFT, left
                return sessions
            left -= ONE_TURN
    assert len(sessions) < limits.running_requests - 2, "rows are not what is to run out"
    return sessions


def appended(engine: Any, session: str, number: int, turn: int) -> bool:
    """Whether SGLang takes a turn that brings nothing."""
    item = TurnItem.silent(STRANGER, 10**6 + number, turn)
    return engine.host.turns([(item, session)], 1.0)[0] is not None


def test_one_call_too_many_is_refused_and_the_others_go_on(
    calls: Callable[[int], Calls], under_sglang: Any
) -> None:
    live = calls(CALLS)
    live.go_on(2)
    with pytest.raises(ValueError, match=f"engine = 'sglang': {CALLS} calls hold all sessions.*--slots"):
        under_sglang.open(CALLS, "")
    live.go_on(2)


def test_a_session_never_outgrows_its_share(calls: Callable[[int], Calls], under_sglang: Any) -> None:
    live, rolled = calls(2), under_sglang.rows.counts.sessions_rolled_total
    for _ in range(10):
        live.go_on(8)
        assert under_sglang.check() == []
        assert under_sglang.gauges["sglang_tokens_held"] <= 2 * SESSION_TOKENS
    assert under_sglang.rows.counts.sessions_rolled_total - rolled >= 4
    assert under_sglang.rows.sessions == 2


def test_a_scheduler_that_stands_still_costs_turns_and_no_call(
    calls: Callable[[int], Calls], under_sglang: Any
) -> None:
    live = calls(2)
    live.go_on(6)
    before = under_sglang.rows.counts.turns_unanswered_total
    stopped = scheduler()
    stopped.suspend()
    try:
        silent, logs, seconds = live.miss()
    finally:
        stopped.resume()
    assert TURN_S <= seconds < TURN_S + 2
    assert not silent.pcm_BS.any() and not silent.said
    assert [line["reason"] for line in logs] == [f"no answer in {TURN_S:.1f} s"] * 2
    assert under_sglang.rows.counts.turns_unanswered_total == before + 2
    live.go_on(25)
    assert live.words > 2
    assert under_sglang.rows.counts.sequences_lost_total == 0


def test_a_session_that_sglang_has_closed_for_idleness_is_opened_anew(
    calls: Callable[[int], Calls], under_sglang: Any
) -> None:
    host = under_sglang.host
    usual, host.limits = host.limits, dataclasses.replace(host.limits, idle_s=TURN_S + 1)
    try:
        live = calls(1)
        live.go_on(4)
    finally:
        host.limits = usual
    time.sleep(TURN_S + 4.0)  # SGLang's own clock: it looks every second
    silent, logs, _ = live.miss()
    assert not silent.pcm_BS.any()
    assert "does not exist" in logs[0]["reason"]
    live.go_on(25)
    assert live.words > 1


def test_rows_that_others_hold_hang_no_call_for_good(
    calls: Callable[[int], Calls], under_sglang: Any
) -> None:
    """More sessions than SGLang has rows, past the guard rails: the hang is there, and ends with its cause."""
    live = calls(1)
    live.go_on(4)
    rows = under_sglang.rows.limits.running_requests
    held = strangers(under_sglang, rows + 2)
    try:
        silent, logs, seconds = live.miss()
        assert seconds < TURN_S + 2
    finally:
        under_sglang.host.close_sessions(held)
    assert not silent.pcm_BS.any()
    assert logs[0]["reason"] == f"no answer in {TURN_S:.1f} s"
    live.go_on(25)
    assert live.words > 1


def test_a_pool_that_others_fill_hangs_no_call_for_good(
    calls: Callable[[int], Calls], under_sglang: Any
) -> None:
    live = calls(1)
    live.go_on(4)
    held = fill(under_sglang)
    try:
        for _ in range(MOST_LEFT // ONE_TURN):
            silent, logs, seconds = live.miss()
            if logs:
                break
            assert live.step(live.theirs, live.turn - live.missed).said == silent.said
            live.missed -= 1
        assert seconds < TURN_S + 2
    finally:
        under_sglang.host.close_sessions(held)
    assert not silent.pcm_BS.any()
    assert logs[0]["reason"] == f"no answer in {TURN_S:.1f} s"
    live.go_on(25)
    assert live.words > 1


def test_a_call_whose_row_the_model_has_lost_begins_anew_and_says_so(
    calls: Callable[[int], Calls], under_sglang: Any
) -> None:
    live = calls(1)
    live.go_on(12)
    session = under_sglang.host.open_sessions(1)[0]
    row = under_sglang.rows[0].row
    assert isinstance(under_sglang.host.turns([(TurnItem.silent(row, 10**6), session)])[0], Answer)
    under_sglang.host.close_sessions([session])
    lost = under_sglang.rows.counts.sequences_lost_total
    _, logs, _ = live.miss()
    assert "begins anew" in logs[0]["event"]
    assert under_sglang.rows.counts.sequences_lost_total == lost + 1
    words = 0
    for turn in range(live.turn, live.turn + 30):
        live.turn = turn
        words += sum(bool(said.text) for said in live.step(under_sglang, turn).said.values())
    assert words >= 2  # it has its persona again
