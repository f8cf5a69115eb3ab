"""Who gets a slot, who does not, and when it is free again."""

from __future__ import annotations

import numpy as np
import pytest

from media.chunk import Chunk, Reply
from media.leases import Lease, Leased, Refused, Release
from media.slots import REST_NS, SlotTable
from media.timebase import NS_PER_MS, TURN_NS, TURN_SAMPLES
from model_server.leases import MAX_GENERATION, MIN_BUDGET_NS, Leases


@pytest.fixture
def make():
    tables = []

    def of(slots: int = 4, groups: int = 2, predict=lambda rows: 0):
        tables.append(SlotTable.create(slots, groups=groups))
        return tables[-1], Leases(tables[-1], predict)

    yield of
    for table in tables:
        table.close()


def granted(answer: Leased | Refused) -> Leased:
    assert isinstance(answer, Leased), answer
    return answer


def release(leases: Leases, worker: int, lease: Leased, now_ns: int) -> bool:
    return leases.release(worker, Release(lease.call, lease.slot, lease.generation), now_ns)


def test_calls_are_spread_over_the_groups(make):
    table, leases = make(slots=8, groups=4)
    got = [granted(leases.lease(1, Lease(str(n)), 0)) for n in range(8)]
    assert sorted(lease.slot for lease in got) == list(range(8))
    assert [lease.group for lease in got] == [0, 2, 1, 3] * 2  # as far apart as they can be
    assert [int(table.group[lease.slot]) for lease in got] == [lease.group for lease in got]


def test_a_group_that_emptied_is_filled_first(make):
    _, leases = make(slots=4, groups=2)
    got = [granted(leases.lease(1, Lease(str(n)), 0)) for n in range(4)]
    assert release(leases, 1, got[1], 0)
    assert granted(leases.lease(1, Lease("next"), REST_NS)).group == got[1].group


def test_a_freed_slot_rests(make):
    _, leases = make(slots=1, groups=1)
    lease = granted(leases.lease(1, Lease("a"), 0))
    full = leases.lease(1, Lease("b"), 5)
    assert full == Refused("b", "no free slot: 1 leased, 0 resting", 5)
    assert release(leases, 1, lease, 10)
    resting = leases.lease(1, Lease("b"), 10 + REST_NS - 1)
    assert resting == Refused("b", "no free slot: 0 leased, 1 resting", 1)
    assert granted(leases.lease(1, Lease("b"), 10 + REST_NS)).generation == lease.generation + 1


def test_the_slot_that_rested_longest_is_next(make):
    _, leases = make(slots=3, groups=1)
    got = [granted(leases.lease(1, Lease(str(n)), 0)) for n in range(3)]
    for at, n in enumerate((2, 0, 1)):
        release(leases, 1, got[n], at)
    again = [granted(leases.lease(1, Lease(f"{n}'"), 2 * REST_NS)).slot for n in range(3)]
    assert again == [got[2].slot, got[0].slot, got[1].slot]


@pytest.mark.parametrize(
    ("before", "floor", "after"), [(0, 0, 1), (5, 0, 6), (5, 5, 6), (5, 40, 41), (0, 9, 10)]
)
def test_a_generation_is_above_the_slots_and_the_calls(make, before, floor, after):
    table, leases = make()
    table.generation[:] = before
    lease = granted(leases.lease(1, Lease("a", floor=floor), 0))
    assert lease.generation == after == int(table.generation[lease.slot])


def test_generations_wrap_around_without_the_free_one(make):
    table, leases = make()
    table.generation[:] = MAX_GENERATION
    assert granted(leases.lease(1, Lease("a"), 0)).generation == 1


@pytest.mark.parametrize("floor", [-1, MAX_GENERATION, 2**70])
def test_a_floor_that_is_no_generation_is_refused(make, floor):
    _, leases = make()
    answer = leases.lease(1, Lease("a", floor=floor), 0)
    assert isinstance(answer, Refused) and f"floor = {floor}" in answer.reason


def test_a_lease_begins_with_empty_rings(make):
    table, leases = make(slots=1, groups=1)
    pcm = np.zeros(TURN_SAMPLES, np.int16)
    for turn in range(4):
        table.put_chunk(0, Chunk(0, turn, 0, pcm))
        table.put_reply(0, Reply(0, turn, 0))
    granted(leases.lease(1, Lease("a"), 0))
    assert not len(table.inbound.ready()) and not len(table.outbound.ready())


def test_only_the_holder_releases_and_only_its_own_generation(make):
    _, leases = make()
    lease = granted(leases.lease(1, Lease("a"), 0))
    assert not release(leases, 2, lease, 0)
    assert not leases.release(1, Release("a", lease.slot, lease.generation + 1), 0)
    assert not leases.release(1, Release("b", lease.slot, lease.generation), 0)
    assert not leases.release(1, Release("a", 10**6, 1), 0)
    assert release(leases, 1, lease, 0)
    assert not release(leases, 1, lease, 0)
    assert leases.leased == 0


def test_a_worker_that_is_gone_frees_its_slots_and_no_others(make):
    _, leases = make(slots=4)
    mine = [granted(leases.lease(1, Lease(str(n)), 0)).slot for n in range(2)]
    theirs = granted(leases.lease(2, Lease("0"), 0)).slot
    assert leases.drop_worker(1, 0) == sorted(mine)
    assert leases.worker_S[theirs] == 2 and leases.leased == 1 and leases.resting == 2
    assert leases.drop_worker(1, 0) == []


def test_one_call_has_one_slot(make):
    _, leases = make()
    granted(leases.lease(1, Lease("a"), 0))
    assert "release it first" in leases.lease(1, Lease("a"), 0).reason
    granted(leases.lease(2, Lease("a"), 0))


def test_a_step_that_would_not_fit_is_refused_although_slots_are_free(make):
    _, leases = make(slots=100, groups=4, predict=lambda rows: rows * 15 * NS_PER_MS)
    got = [leases.lease(1, Lease(str(n)), 0) for n in range(11)]
    assert [isinstance(answer, Leased) for answer in got] == [True] * 10 + [False]
    told = "a step of 3 rows would take 45.0 ms, and all steps of a turn 165.0 ms; their limit is 160.0 ms"
    assert got[10] == Refused("10", told, 5)


def test_where_a_step_of_one_call_is_long_fewer_groups_are_used(make):
    _, leases = make(slots=100, groups=4, predict=lambda rows: (48 + rows) * NS_PER_MS)
    got = [leases.lease(1, Lease(str(n)), 0) for n in range(20)]
    groups = [answer.group for answer in got if isinstance(answer, Leased)]
    assert groups == [*[0, 2, 1] * 5, 0]
    assert "all steps of a turn" in got[-1].reason


def test_a_step_beyond_the_limit_is_refused_but_for_a_call_alone(make):
    _, leases = make(slots=100, groups=4, predict=lambda rows: 61 * NS_PER_MS)
    granted(leases.lease(1, Lease("a"), 0))
    refused = leases.lease(1, Lease("b"), 0)
    assert refused == Refused("b", "a step of 1 rows would take 61.0 ms, its limit is 60.0 ms", 5)


@pytest.mark.parametrize("seed", range(30))
def test_as_many_calls_are_taken_as_are_said_to_be_free(make, seed):
    rng = np.random.default_rng(seed)
    fixed_ns, row_ns, bend_ns = (int(most * rng.random() * NS_PER_MS) for most in (40, 12, 0.4))
    _, leases = make(
        slots=int(rng.integers(1, 60)), groups=int(rng.integers(1, 6)),
        predict=lambda rows: fixed_ns + row_ns * rows + bend_ns * rows**2 if rows else 0,
    )  # fmt: skip
    held = []
    for number in range(int(rng.integers(0, 60))):  # a state as calls that come and go leave it
        answer = leases.lease(1, Lease(f"a{number}"), number)
        held += [answer] if isinstance(answer, Leased) else []
        if held and rng.random() < 0.4:
            release(leases, 1, held.pop(int(rng.integers(len(held)))), number)
    free, later_ns = leases.free_calls(), 100 + REST_NS
    leased = 0
    while isinstance(leases.lease(1, Lease(f"b{leased}"), later_ns), Leased):
        leased += 1
    assert leased == free and leases.free_calls() == 0


def test_refusals_are_counted_by_why(make):
    _, leases = make(slots=2, groups=1, predict=lambda rows: 30 * NS_PER_MS)
    granted(leases.lease(1, Lease("a"), 0))
    assert not isinstance(leases.lease(1, Lease("a"), 0), Leased) and leases.refused.wish == 1
    leases.is_shedding = True
    leases.lease(1, Lease("b"), 0)
    assert (leases.refused.overload, leases.free_calls()) == (1, 0)
    leases.is_shedding = False
    assert leases.free_calls() == 1
    granted(leases.lease(1, Lease("b"), 0))
    leases.lease(1, Lease("c"), 0)
    assert (leases.refused.slots, leases.refused.predicted) == (1, 0)
    _, tight = make(slots=9, groups=1, predict=lambda rows: rows * 100 * NS_PER_MS)
    granted(tight.lease(1, Lease("a"), 0))
    tight.lease(1, Lease("b"), 0)
    assert tight.refused.predicted == 1 and tight.free_calls() == 0


@pytest.mark.parametrize(("full_ns", "budget_ns"), [(0, MIN_BUDGET_NS), (9, 18), (30, 50), (400, 80)])
def test_the_budget_is_that_of_a_full_group(make, full_ns, budget_ns):
    def predict(rows: int) -> int:
        return full_ns * NS_PER_MS if rows == 25 else 0

    _, leases = make(slots=100, groups=4, predict=predict)
    expected = budget_ns if budget_ns == MIN_BUDGET_NS else budget_ns * NS_PER_MS
    assert granted(leases.lease(1, Lease("a"), 0)).budget_ns == expected


def test_a_call_that_a_server_before_us_admitted_goes_on_whatever_is_predicted():
    table = SlotTable.create(4)
    leases = Leases(table, lambda rows: TURN_NS)
    assert isinstance(leases.lease(1, Lease("first"), 0), Leased)
    assert isinstance(leases.lease(1, Lease("new"), 0), Refused)
    assert isinstance(leases.lease(1, Lease("old", floor=3, turn=20), 0), Leased)
    leases.is_shedding = True
    assert isinstance(leases.lease(1, Lease("older", floor=3, turn=90), 0), Leased)
    table.close()
