"""A call moves from one model server to another between two turns: each turn is answered once, and none waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from media.chunk import Chunk, Flags, Reply
from media.leases import CaughtUp, Lease, Leased, Refused
from media.slots import SlotTable
from media.timebase import NS_PER_MS, TURN_NS, TURN_SAMPLES
from media.turn_log import TurnLog
from model_server.server import ModelServer
from model_server.slack import MOST_MOVING
from tests.model_server.test_rebuild import STEP_NS, Heard
from tests.model_server.test_server import Node

WORKER = 1


@dataclass
class Side:
    """One server with its worker's view of it."""

    server: ModelServer
    table: SlotTable
    leased: Leased

    def put(self, chunk: Chunk) -> None:
        assert self.table.put_chunk(self.leased.slot, replace(chunk, generation=self.leased.generation))

    def hear(self) -> list[Reply]:
        heard: list[Reply] = []
        while len(slots := self.table.outbound.ready()):
            heard += self.table.replies(self.table.outbound.gather(slots))
            self.table.outbound.advance(slots)
        return heard


class Way:
    """One call, its worker's part by hand: `turn` is one turn at both servers, its slack before the next one."""

    def __init__(self, old: Node, new: Node, persona: str = "") -> None:
        self.old, self.new, self.persona = old, new, persona
        lease = old.server.lease(WORKER, Lease("a", persona=persona))
        assert isinstance(lease, Leased)
        self.at: Side = Side(old.server, old.table, lease)
        self.to: Side | None = None
        self.log, self.passed_on, self.now_ns = TurnLog(), -1, 1_000 * TURN_NS
        self.replies: list[tuple[bool, Reply]] = []
        """Whether the new server made it, and the reply."""

    def begin(self, **more: Any) -> Leased | Refused:
        self.passed_on = self.log.newest_answered
        old = self.at.leased
        first = Lease("a", old.generation, self.log.newest + 1, self.persona, moves=True)
        wish = replace(first, group=old.group, budget_ns=old.budget_ns, **more)
        answer = self.new.server.lease(WORKER, wish, self.log.pack(self.passed_on))
        if isinstance(answer, Leased):
            self.to = Side(self.new.server, self.new.table, answer)
        return answer

    def turn(self, chunk: Chunk, slack_ns: int = TURN_NS // 2) -> list[CaughtUp]:
        self.log.add(chunk)
        self.at.put(chunk)
        for node in (self.old, self.new):
            node.now_ns = self.now_ns
            node.tick()
        for reply in self.at.hear():
            self.log.answer(reply.turn)
            self.replies.append((self.at.server is self.new.server, reply))
        if self.to is not None:
            self.pass_on(self.log.newest_answered)
        told = self.slack(slack_ns)
        self.now_ns += TURN_NS
        for news in told:
            if self.to is not None and news.turn == self.passed_on == self.log.newest:
                self.old.server.gone(WORKER)
                self.at, self.to = self.to, None
        return told

    def pass_on(self, until: int) -> None:
        assert self.to is not None
        for chunk in self.log.past(self.passed_on, until):
            self.to.put(replace(chunk, flags=chunk.flags | Flags.PAST))
            self.passed_on = chunk.turn

    def slack(self, slack_ns: int) -> list[CaughtUp]:
        self.new.now_ns = self.now_ns
        until_ns = self.now_ns + slack_ns
        while self.new.now_ns < until_ns and self.new.server.rebuild(until_ns, 0):
            self.new.now_ns += STEP_NS
        return [message for worker, message in self.new.server.slack.news() if worker == WORKER]

    def close(self) -> None:
        for node in (self.old, self.new):
            node.table.close()


def said(turn: int, **more: Any) -> Chunk:
    return Chunk(0, turn, 0, np.full(TURN_SAMPLES, turn + 1, np.int16), **more)


@pytest.fixture
def way() -> Iterator[Way]:
    way = Way(Node(), Node())
    yield way
    way.close()


def test_every_turn_is_answered_once_by_the_one_or_the_other(way: Way) -> None:
    for turn in range(40):
        if turn == 20:
            assert isinstance(way.begin(), Leased)
        way.turn(said(turn), slack_ns=7 * STEP_NS)
    assert [reply.turn for _, reply in way.replies] == list(range(40))
    assert all(np.array_equal(reply.pcm, said(reply.turn).pcm) for _, reply in way.replies)
    news = [is_new for is_new, _ in way.replies]
    moved = news.index(True)
    assert news == [False] * moved + [True] * (40 - moved)
    assert moved == 24, "20 turns of log and those that came meanwhile, 7 passes a turn"
    counters = way.new.counters
    assert counters.calls_moved_total == 1 and counters.turns_rebuilt_total == moved
    assert counters.turns_missed_total == counters.turns_late_total == counters.turns_not_rebuilt_total == 0
    assert way.old.counters.turns_missed_total == 0


def test_nothing_is_done_twice_or_left_out_where_it_moves(way: Way) -> None:
    keys = dict(zip((2, 9, 20, 24, 25, 26), "*3*4*#", strict=True))
    for turn in range(30):
        if turn == 20:
            way.begin()
        events = (f"dtmf {keys[turn]}",) if turn in keys else ()
        way.turn(said(turn, events=events), slack_ns=7 * STEP_NS)
    told = [(is_new, reply.events) for is_new, reply in way.replies if reply.events]
    assert told == [(True, ("delegate caller: 3 plus 4 plus ",))], "keys of before belong to the question"


def test_a_call_that_moves_waits_until_a_turn_is_over_and_nobody_gives_it_up(way: Way) -> None:
    for turn in range(10):
        way.turn(said(turn))
    way.begin()
    for turn in range(10, 60):
        way.turn(said(turn), slack_ns=STEP_NS)
    assert all(not is_new for is_new, _ in way.replies) and len(way.replies) == 60
    assert way.new.counters.turns_not_rebuilt_total == 0, "12 s, and nothing is forgotten"
    for turn in range(60, 80):
        way.turn(said(turn))
    assert way.replies[-1][0] and [reply.turn for _, reply in way.replies] == list(range(80))


def test_when_the_old_one_dies_the_new_one_goes_on_behind_what_it_has_not_appended(way: Way) -> None:
    for turn in range(10):
        way.turn(said(turn))
    way.begin()
    way.log.add(said(10))  # published to the old one, which is dead
    assert way.to is not None
    way.pass_on(way.log.newest)
    way.at, way.to, way.now_ns = way.to, None, way.now_ns + TURN_NS
    way.log.add(said(11))
    way.at.put(said(11))
    way.new.now_ns = way.now_ns
    way.new.tick()
    assert not way.at.hear(), "it waits behind its past"
    way.slack(TURN_NS)
    way.now_ns += TURN_NS
    way.at.put(said(12))
    way.new.now_ns = way.now_ns
    way.new.tick()
    assert [reply.turn for reply in way.at.hear()] == [12]
    assert way.new.counters.turns_rebuilt_total == 12 and not way.new.server.slack


def test_a_call_that_ends_on_the_way_leaves_nothing(way: Way) -> None:
    for turn in range(10):
        way.turn(said(turn))
    way.begin()
    way.slack(2 * STEP_NS)
    way.new.server.gone(WORKER)
    assert not way.new.server.slack and way.new.server.leases.leased == 0
    assert not way.slack(TURN_NS) and not list(way.new.server.slack.news())


def test_no_pass_makes_a_live_call_wait_and_a_caught_up_one_is_live() -> None:
    way = Way(Node(), Heard())
    assert isinstance(way.new, Heard)
    live = way.new.lease("live", worker=2)
    for turn in range(10):
        way.turn(said(turn))
    way.begin()
    way.new.send(live, 0)
    way.new.now_ns = way.now_ns
    way.new.tick()
    tick_ns = (way.new.now_ns if way.new.now_ns > way.now_ns else way.now_ns) + 25 * NS_PER_MS
    assert way.new.slack(tick_ns) == 2 and way.new.now_ns + STEP_NS > tick_ns
    assert way.new.slack(tick_ns + TURN_NS) == 8
    way.pass_on(9)
    assert way.new.server.slack.rebuilds.in_group(0) == 0, "its next turn may have to be answered"
    way.close()


def test_so_many_move_at_a_time_as_a_pass_has_time_for() -> None:
    node = Heard(slots=8, groups=4)
    node.server.slack.step_time.predict_ns = lambda rows, _=None: STEP_NS * (1 if rows <= 2 else 9)  # type: ignore
    log = TurnLog()
    log.add(said(0))
    log.answer(0)
    answers = [node.server.lease(1, Lease(f"{n}", 4, 1, moves=True), log.pack()) for n in range(5)]
    assert [type(answer) for answer in answers] == [Leased] * 2 + [Refused] * 3
    assert "2 calls move here already" in answers[3].reason  # type: ignore[union-attr]
    assert isinstance(node.server.lease(1, Lease("new")), Leased), "new calls are not meant"
    node.server.gone(1)
    assert isinstance(node.server.lease(2, Lease("again", 4, 1, moves=True), log.pack()), Leased)
    node.table.close()


def test_group_and_budget_stay_what_they_were_and_nonsense_is_refused() -> None:
    node = Node(slots=8, groups=4)
    for group in (2, 2, 0, 3):
        answer = node.server.lease(1, Lease(f"{node.now_ns}", 4, group=group, budget_ns=77 * NS_PER_MS))
        assert isinstance(answer, Leased) and (answer.group, answer.budget_ns) == (group, 77 * NS_PER_MS)
        node.now_ns += 1
    for wish in (Lease("x", 4, group=4), Lease("x", 4, group=-2), Lease("x", 4, budget_ns=-1)):
        answer = node.server.lease(1, wish)
        assert isinstance(answer, Refused) and f"group = {wish.group}" in answer.reason
    node.table.close()


def test_never_more_than_a_few_move_at_a_time_however_short_passes_are() -> None:
    node = Node(slots=8)
    log = TurnLog()
    log.add(said(0))
    log.answer(0)
    answers = [node.server.lease(1, Lease(f"{n}", 4, 1, moves=True), log.pack()) for n in range(5)]
    assert [type(answer) for answer in answers] == [Leased] * MOST_MOVING + [Refused] * (5 - MOST_MOVING)
    node.table.close()
