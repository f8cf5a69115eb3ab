"""Calls of a server before this one: rebuilt in the slack, nobody who is live waits for them, and bounded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from media.chunk import Chunk, Flags
from media.leases import Lease, Leased
from media.timebase import NS_PER_MS, TURN_NS, TURN_SAMPLES
from media.turn_log import TurnLog
from model_server.batch import Batch, Results
from model_server.rebuild import AIM_NS, FILL_TURNS, OVERDUE_PASSES, PATIENCE_NS, SETTLE_NS
from model_server.step_time import StepTime
from tests.model_server.test_server import Node

STEP_NS = 10 * NS_PER_MS


class Heard(Node):
    """A node whose engine writes down the turns that it was given, and whose steps take 10 ms."""

    def __init__(self, slots: int = 4, groups: int = 1) -> None:
        super().__init__(slots, groups)
        self.server.slack.step_time = StepTime()
        for rows in (1, 2, 4):
            self.server.slack.step_time.add(rows, STEP_NS)
        self.heard: list[tuple[int, int, bool]] = []
        """Slot, turn, and whether a reply was made."""
        made = self.engine.step

        def step(batch: Batch) -> Results:
            for slot, chunks in batch.earlier.items():
                self.heard += [(slot, chunk.turn, False) for chunk in chunks]
            self.heard += [(int(s), int(t), True) for s, t in zip(batch.slots_B, batch.turns_B, strict=True)]
            self.now_ns += STEP_NS
            return made(batch)

        self.engine.step = step  # type: ignore[method-assign]

    def come_back(self, turns: range, call: str = "old") -> Leased:
        log = TurnLog()
        for turn in turns:
            log.add(Chunk(1, turn, 0, np.full(TURN_SAMPLES, turn, np.int16)))
            log.answer(turn)
        answer = self.server.lease(1, Lease(call, turn=turns.stop), log.pack())
        assert isinstance(answer, Leased), answer
        self.now_ns += SETTLE_NS
        return answer

    def slack(self, until_ns: int, group: int = 0) -> int:
        """Passes that are made before that tick."""
        passes = 0
        while self.now_ns < until_ns and self.server.rebuild(until_ns, group):
            passes += 1
        return passes


@pytest.fixture
def node() -> Iterator[Heard]:
    node = Heard()
    yield node
    node.table.close()


def test_a_log_is_appended_in_order_and_then_the_call_is_live(node: Heard) -> None:
    lease = node.come_back(range(10))
    assert node.slack(node.now_ns + TURN_NS) == 10
    node.send(lease, 10)
    node.tick()
    slot = lease.slot
    assert node.heard == [(slot, turn, False) for turn in range(10)] + [(slot, 10, True)]
    assert [reply.turn for reply in node.hear()] == [10]
    assert node.counters.turns_rebuilt_total == 10 and not node.server.slack.rebuilds


def test_live_turns_wait_behind_the_log_and_those_that_never_came_are_made_up(node: Heard) -> None:
    lease = node.come_back(range(4))
    node.send(lease, 6)
    node.tick()
    assert not node.hear() and not node.heard, "no reply as long as it is not rebuilt"
    node.slack(node.now_ns + TURN_NS)
    node.send(lease, 7)
    node.tick()
    assert [turn for _, turn, _ in node.heard] == list(range(8))
    assert [reply.turn for reply in node.hear()] == [7]
    assert node.counters.turns_missed_total == node.counters.turns_late_total == 0


def test_no_pass_is_begun_that_would_make_a_live_call_wait(node: Heard) -> None:
    live = node.lease("live")
    node.send(live, 0)
    node.tick()
    node.come_back(range(100, 160))
    tick_ns = node.now_ns + 45 * NS_PER_MS
    assert node.slack(tick_ns) == 4 and node.now_ns + STEP_NS > tick_ns >= node.now_ns
    node.now_ns = tick_ns
    node.send(live, 1)
    node.tick()
    assert node.heard[-1] == (live.slot, 1, True)
    assert {turn for slot, turn, _ in node.heard if slot != live.slot} == set(range(100, 104))


def test_calls_are_rebuilt_together_and_the_longest_first(node: Heard) -> None:
    long, short = node.come_back(range(6), "long"), node.come_back(range(3, 6), "short")
    assert node.slack(node.now_ns + TURN_NS) == 6
    assert [turn for slot, turn, _ in node.heard if slot == long.slot] == list(range(6))
    assert [turn for slot, turn, _ in node.heard if slot == short.slot] == [3, 4, 5]


def test_what_takes_too_long_is_forgotten_and_counted(node: Heard) -> None:
    live = node.lease("live")
    node.send(live, 0)
    node.tick()
    lease = node.come_back(range(20))
    assert not node.server.rebuild(node.now_ns + STEP_NS, 0), "no slack"
    node.now_ns += PATIENCE_NS
    assert not node.server.rebuild(node.now_ns + STEP_NS, 0)
    assert node.counters.turns_not_rebuilt_total == 20 and not node.server.slack.rebuilds
    node.send(lease, 45)
    node.tick()
    assert (lease.slot, 45, True) in node.heard


def test_so_many_calls_come_back_with_their_newest_turns_in_time() -> None:
    node = Heard(slots=8, groups=4)
    node.server.slack.step_time.predict_ns = lambda rows, _=None: STEP_NS * (1 if rows <= 4 else 9)  # type: ignore
    node.server.slack.pass_ns = lambda rows: STEP_NS  # type: ignore[method-assign]
    leased_ns, calls = node.now_ns, 8
    for call in range(calls):
        node.come_back(range(200, 260), f"old {call}")
        node.now_ns = leased_ns  # all at once
    node.now_ns += SETTLE_NS
    passes = node.slack(node.now_ns + 2 * AIM_NS)
    assert not node.server.slack.rebuilds and passes == 2 * 60, "two passes a turn: four calls fit into one"
    assert node.now_ns <= leased_ns + AIM_NS
    node.table.close()


def test_what_there_is_no_time_for_is_forgotten_oldest_first(node: Heard) -> None:
    node.server.slack.pass_ns = lambda rows: 4 * STEP_NS  # type: ignore[method-assign]
    lease = node.come_back(range(60))
    node.slack(node.now_ns + AIM_NS)
    left_ns = AIM_NS - SETTLE_NS
    kept = int(left_ns / (4 * STEP_NS) - left_ns / TURN_NS)
    assert [turn for _, turn, _ in node.heard] == list(
        range(60 - kept, 60)
    ) and lease.slot not in node.server.slack.rebuilds
    assert node.counters.turns_not_rebuilt_total == 60 - kept


def test_who_should_be_live_by_now_gets_a_pass_or_two_a_tick_though_others_wait(node: Heard) -> None:
    live = node.lease("live")
    node.come_back(range(20))
    tick_ns = node.now_ns + STEP_NS
    assert not node.server.rebuild(tick_ns, 0), "no slack"
    node.now_ns += AIM_NS
    for turn in range(3):
        before, tick_ns = len(node.heard), node.now_ns + STEP_NS
        while node.server.rebuild(tick_ns, 0):
            tick_ns = node.now_ns + STEP_NS
        assert len(node.heard) == before + OVERDUE_PASSES
        node.send(live, turn)
        node.tick()
        assert node.heard[-1] == (live.slot, turn, True)


def test_there_is_time_for_the_live_turns_that_come_meanwhile(node: Heard) -> None:
    """A pass of all calls takes a third of a turn: a third of what can be appended are turns that come."""
    pass_ns = TURN_NS // 3
    node.server.slack.pass_ns = lambda rows: pass_ns  # type: ignore[method-assign]
    leased_ns = node.now_ns
    lease = node.come_back(range(60))
    turn, tick_ns = 60, node.now_ns + TURN_NS
    while node.server.slack.rebuilds:
        assert node.server.rebuild(tick_ns, 0)
        node.now_ns += pass_ns - STEP_NS
        if node.now_ns >= tick_ns:
            node.send(lease, turn)
            node.server.tick(0, tick_ns)
            turn, tick_ns = turn + 1, tick_ns + TURN_NS
    assert leased_ns + AIM_NS - TURN_NS < node.now_ns <= leased_ns + AIM_NS + pass_ns
    turns = [turn for _, turn, _ in node.heard]
    assert turns == list(range(turns[0], turn)) and turn > 60 + 3


def test_where_nobody_is_live_a_pass_has_as_many_calls_as_a_group_may_have(node: Heard) -> None:
    node.server.slack.step_time.predict_ns = lambda rows, _=None: TURN_NS * (rows > 1)  # type: ignore
    for call in range(3):
        node.come_back(range(60), f"old {call}")
    assert node.server.rebuild(node.now_ns + TURN_NS, 0)
    assert len(node.heard) == 3
    live = node.lease("live")
    node.send(live, 0)
    assert node.server.rebuild(node.now_ns + 2 * TURN_NS, 0)
    assert len(node.heard) == 4, "now somebody would wait: one at a time"


def test_what_was_typed_is_not_forgotten_for_want_of_time(node: Heard) -> None:
    log = TurnLog()
    for turn in range(60):
        log.add(
            Chunk(1, turn, 0, np.zeros(TURN_SAMPLES, np.int16), text="persona count" if turn == 2 else "")
        )
    node.server.slack.pass_ns = lambda rows: AIM_NS / 10  # type: ignore[method-assign]
    assert isinstance(node.server.lease(1, Lease("old"), log.pack()), Leased)
    node.now_ns += SETTLE_NS
    node.slack(node.now_ns + AIM_NS)
    assert [turn for _, turn, _ in node.heard] == [2, *range(60 - FILL_TURNS, 60)]


def test_a_call_that_ends_meanwhile_leaves_nothing(node: Heard) -> None:
    node.come_back(range(9))
    node.slack(node.now_ns + 2 * STEP_NS)
    node.server.gone(1)
    assert not node.server.slack.rebuilds and not node.server.rebuild(node.now_ns + TURN_NS, 0)


def test_a_log_that_is_none_is_a_call_that_has_forgotten(node: Heard) -> None:
    answer = node.server.lease(1, Lease("old", turn=9), b"no log")
    assert isinstance(answer, Leased) and not node.server.slack.rebuilds
    node.send(answer, 9)
    node.tick()
    assert [reply.turn for reply in node.hear()] == [9]


def test_an_echo_repeats_nothing_that_was_said_before(node: Heard) -> None:
    log = TurnLog()
    for turn, key in enumerate("*3*"):
        log.add(Chunk(1, turn, 0, np.zeros(TURN_SAMPLES, np.int16), events=(f"dtmf {key}",)))
        log.answer(turn)
    log.add(Chunk(1, 3, 0, np.zeros(TURN_SAMPLES, np.int16), text="unheard"))
    lease = node.server.lease(1, Lease("old", turn=4), log.pack())
    assert isinstance(lease, Leased)
    node.now_ns += SETTLE_NS
    node.slack(node.now_ns + TURN_NS)
    node.send(lease, 4, events=("dtmf 4", "dtmf #"), flags=Flags.NONE)
    node.tick()
    (reply,) = node.hear()
    assert reply.text == "unheard\ndtmf 4\ndtmf #"
    assert reply.events == ("delegate caller: 3 plus 4",), "keys from before belong to the question"
