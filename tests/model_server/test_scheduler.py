"""Tables: what is waiting at a tick, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from model_server.scheduler import RESYNC_TICKS, Plan, SlotStates, Waiting, plan_tick


@dataclass(frozen=True)
class Row:
    """One slot (always slot 2 of group 1) before a tick, and what is expected of the tick."""

    told: str
    started: bool = True
    closing: bool = False
    expected: int = 7
    behind: int = 0
    newest: int | None = 7
    rows: int = 1
    last: bool = False
    # out
    ready: bool = False
    missing: bool = False
    late: bool = False
    new: bool = False
    closes: bool = False
    next_expected: int | None = 8
    next_behind: int = 0
    resynced: int = 0


TABLE = [
    Row("its turn is here", ready=True),
    Row("nothing is here", newest=None, missing=True),
    Row("nothing has ever been here", started=False, newest=None, next_expected=None),
    Row("the first chunk", started=False, expected=0, newest=0, ready=True, new=True, next_expected=1),
    Row(
        "the first after a restart",
        started=False,
        expected=0,
        newest=90,
        ready=True,
        new=True,
        next_expected=91,
    ),
    Row("two, the older one late", rows=2, ready=True, late=True),
    Row("two, both ahead: we overslept", newest=8, rows=2, ready=True, late=True, next_expected=9),
    Row("the worker has skipped turns", newest=11, ready=True, next_expected=12),
    Row("only the turn before", newest=6, late=True, missing=True, next_behind=1),
    Row("late once more", newest=6, behind=2, late=True, missing=True, next_behind=3),
    Row("absent in between", newest=None, behind=2, missing=True, next_behind=2),
    Row("in time again", behind=3, ready=True),
    Row(
        "late for good",
        newest=6,
        behind=RESYNC_TICKS - 1,
        ready=True,
        next_expected=7,
        resynced=1,
    ),
    Row("the last chunk", last=True, ready=True, closes=True),
    Row("the last chunk comes late", newest=6, last=True, late=True, closes=True, next_behind=1),
    Row("nothing after the last", closing=True, newest=None),
    Row(
        "first and last at once",
        started=False,
        rows=2,
        last=True,
        ready=True,
        late=True,
        new=True,
        closes=True,
    ),
]


def states(row: Row) -> SlotStates:
    all_slots = SlotStates.of(4)
    all_slots.open(2, group=1)
    all_slots.started_S[2], all_slots.closing_S[2] = row.started, row.closing
    all_slots.expected_S[2], all_slots.behind_S[2] = row.expected, row.behind
    return all_slots


def waiting(row: Row) -> Waiting:
    n = 0 if row.newest is None else 1
    return Waiting(
        np.array([2] * n, np.intp),
        np.array([row.newest] * n, np.int64),
        np.array([row.rows] * n, np.int64),
        np.array([row.last] * n, np.bool_),
    )


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.told)
def test_one_slot_at_a_tick(row):
    before = states(row)
    plan = plan_tick(before, before.group_S == 1, waiting(row))
    assert plan.ready_W.tolist() == [row.ready] * (row.newest is not None)
    assert plan.missing.tolist() == [2] * row.missing
    assert plan.late.tolist() == [2] * row.late
    assert plan.new.tolist() == [2] * row.new
    assert plan.closing.tolist() == [2] * row.closes
    assert plan.resynced == row.resynced
    assert before.expected_S[2] == row.expected, "a plan changes nothing"
    before.commit(plan)
    if row.next_expected is not None:
        assert before.expected_S[2] == row.next_expected
        assert before.behind_S[2] == row.next_behind
    assert before.started_S[2] == (row.started or row.new)
    assert before.closing_S[2] == (row.closing or row.closes)


def test_a_tick_is_of_one_group_only():
    all_slots = SlotStates.of(6)
    for slot in range(5):
        all_slots.open(slot, group=slot % 2)
        all_slots.started_S[slot] = True
    plan = plan_tick(
        all_slots,
        all_slots.group_S == 0,
        Waiting(np.array([2]), np.array([0]), np.array([1]), np.array([False])),
    )
    assert plan.missing.tolist() == [0, 4]
    assert plan.members.tolist() == [0, 2, 4]
    all_slots.commit(plan)
    assert all_slots.expected_S.tolist() == [1, 0, 1, 0, 1, 0]


def test_a_missing_turn_is_counted_once_a_tick_and_its_late_chunk_gets_no_reply():
    all_slots = SlotStates.of(1)
    all_slots.open(0, 0)
    seen = []
    for newest, rows in [(0, 1), (None, 0), (2, 2), (3, 1), (None, 0), (None, 0), (6, 1)]:
        n = 0 if newest is None else 1
        plan: Plan = plan_tick(
            all_slots,
            all_slots.group_S == 0,
            Waiting(
                np.array([0] * n, np.intp),
                np.array([newest] * n, np.int64),
                np.array([rows] * n, np.int64),
                np.zeros(n, np.bool_),
            ),
        )
        all_slots.commit(plan)
        seen.append((bool(plan.ready_W.any()), len(plan.missing), len(plan.late)))
    assert seen == [(1, 0, 0), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0)]


def test_a_released_slot_takes_part_no_more():
    all_slots = SlotStates.of(1)
    all_slots.open(0, 0)
    all_slots.started_S[0] = True
    all_slots.close(0)
    none = np.array([], np.intp)
    plan = plan_tick(all_slots, all_slots.group_S == 0, Waiting(none, none, none, none.astype(bool)))
    assert not len(plan.missing) and not len(plan.members)
