"""What SGLang is known to hang in, provoked: refused or rolled over, said, and other calls unharmed."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from model_server.engine import EngineLost
from model_server.engine.sglang.asking import Answer
from model_server.engine.sglang.turn_item import TurnItem
from tests.on_sglang.conftest import CALLS, SESSION_TOKENS, TURN_S, scheduler
from tests.on_sglang.live import NO_ANSWER, Calls, assert_unanswered, held
from tests.support.sglang_here import needs_sglang

pytestmark = needs_sglang

STRANGER = CALLS - 1
"""A row of the model that no call of these tests has, but where all have one: the lowest is given first."""
MOST_LEFT = 120
ONE_TURN = 9
"""Tokens that an empty turn adds: its positions, and the end of the turn before."""


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
    calls: Callable[..., Calls], under_sglang: Any
) -> None:
    live = calls(CALLS, turns=2)
    with pytest.raises(ValueError, match=f"engine = 'sglang': {CALLS} calls hold all sessions.*--slots"):
        under_sglang.open(CALLS, "")
    live.go_on(2)


def test_a_session_never_outgrows_its_share(calls: Callable[..., Calls], under_sglang: Any) -> None:
    live, rolled = calls(2), under_sglang.rows.counts.sessions_rolled_total
    for _ in range(10):
        live.go_on(8)
        assert under_sglang.check() == []
        assert under_sglang.gauges["sglang_tokens_held"] <= 2 * SESSION_TOKENS
    assert under_sglang.rows.counts.sessions_rolled_total - rolled >= 4
    assert under_sglang.rows.sessions == 2


def test_a_scheduler_that_stands_still_costs_turns_and_no_call(
    calls: Callable[..., Calls], under_sglang: Any
) -> None:
    live = calls(2, turns=6)
    before = dataclasses.replace(under_sglang.rows.counts)
    stopped = scheduler()
    stopped.suspend()
    try:
        live.miss_for(NO_ANSWER)
    finally:
        stopped.resume()
    assert under_sglang.rows.counts.turns_unanswered_total == before.turns_unanswered_total + 2
    assert under_sglang.rows.counts.sessions_given_up_total == before.sessions_given_up_total + 2
    live.are_well_again()


def test_a_scheduler_that_goes_silent_when_nobody_calls_is_noticed(under_sglang: Any) -> None:
    host = under_sglang.host
    usual, host.limits = host.limits, dataclasses.replace(host.limits, turn_s=0.6, stuck_s=0.5)
    stopped = scheduler()
    stopped.suspend()
    try:
        time.sleep(host.limits.turn_s)  # in which no call asks it anything
        assert under_sglang.check() == [], "once is not for long"
        with pytest.raises(EngineLost, match="SGLang has said nothing for "):
            under_sglang.check()
    finally:
        stopped.resume()
        host.limits = usual
    host.close_sessions(answered := host.open_sessions(1))
    assert answered != [""]


def test_an_order_to_end_in_the_middle_of_a_turn_is_ours_and_not_sglangs(
    calls: Callable[..., Calls], under_sglang: Any
) -> None:
    """SGLang would drain its requests and kill the process; the model server ends after the turn."""
    live, heard = calls(1, turns=4), list[int]()
    usual = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    stopped = scheduler()
    stopped.suspend()
    order = threading.Timer(TURN_S / 2, signal.pthread_kill, (threading.get_ident(), signal.SIGTERM))
    order.start()
    try:
        live.miss_for(NO_ANSWER)
    finally:
        stopped.resume()
        order.join()
        signal.signal(signal.SIGTERM, usual)
    assert heard == [signal.SIGTERM]
    assert not under_sglang.host._engine.tokenizer_manager.gracefully_exit
    live.are_well_again()


def test_a_session_that_sglang_has_closed_for_idleness_is_opened_anew(
    calls: Callable[..., Calls], under_sglang: Any
) -> None:
    host = under_sglang.host
    usual, host.limits = host.limits, dataclasses.replace(host.limits, idle_s=TURN_S + 1)
    try:
        live = calls(1, turns=4)
    finally:
        host.limits = usual
    time.sleep(TURN_S + 4.0)  # SGLang's own clock: it looks every second
    live.miss_for("does not exist")
    live.are_well_again()


def test_rows_that_others_hold_hang_no_call_for_good(calls: Callable[..., Calls], under_sglang: Any) -> None:
    """More sessions than SGLang has rows, past the guard rails: the hang is there, and ends with its cause."""
    live = calls(1, turns=4)
    with held(under_sglang, strangers(under_sglang, under_sglang.rows.limits.running_requests + 2)):
        live.miss_for(NO_ANSWER)
    live.are_well_again()


def test_a_pool_that_others_fill_hangs_no_call_for_good(
    calls: Callable[..., Calls], under_sglang: Any
) -> None:
    live = calls(1, turns=4)
    with held(under_sglang, fill(under_sglang)):
        for _ in range(MOST_LEFT // ONE_TURN):
            results, logs = live.miss()
            if logs:
                break
            live.was_answered(results)
        assert_unanswered(results, logs, 1, NO_ANSWER)
    live.are_well_again()


def test_a_call_whose_row_the_model_has_lost_begins_anew_and_says_so(
    calls: Callable[..., Calls], under_sglang: Any
) -> None:
    live, lost = calls(1, turns=12), under_sglang.rows.counts.sequences_lost_total
    session = under_sglang.host.open_sessions(1)[0]
    with held(under_sglang, [session]):
        item = TurnItem.silent(under_sglang.rows[0].row, 10**6)
        assert isinstance(under_sglang.host.turns([(item, session)])[0], Answer)
    _, logs = live.miss()
    assert "begins anew" in logs[0]["event"]
    assert under_sglang.rows.counts.sequences_lost_total == lost + 1
    words = 0
    for turn in range(live.turn, live.turn + 30):
        live.turn = turn
        words += sum(bool(said.text) for said in live.step(under_sglang, turn).said.values())
    assert words >= 2  # it has its persona again
