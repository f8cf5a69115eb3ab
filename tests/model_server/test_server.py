"""Ticks without a clock, a socket or a process: what goes into the rings, and what comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from media.chunk import MAX_VIDEO_FRAMES, Chunk, Flags, Reply, VideoFrame
from media.leases import MAX_BYTES, Lease, Leased, Refused, Release, Stats, encode
from media.ring import TORN
from media.slots import REST_NS, SlotTable
from media.timebase import TURN_NS, TURN_SAMPLES
from model_server.batch import Batch, Results
from model_server.engine.echo import EchoEngine
from model_server.server import ModelServer
from model_server.shedding import CALM_STEPS, SEEN_STEPS, Shed


class Recorder(EchoEngine):
    """Echo that keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.looks: dict[int, bool] = {}

    def pictures(self, slot: int) -> int:
        return int(self.looks[slot])

    def open(self, slot: int, persona: str) -> None:
        self.looks[slot] = persona != "blind"
        if persona == "nobody":
            raise ValueError("persona = 'nobody': expected a known one")
        super().open(slot, persona)

    def step(self, batch: Batch) -> Results:
        self.batches.append(batch)
        return super().step(batch)


class Node:
    """A model server with a hand-driven clock and the worker's view of its table."""

    def __init__(self, slots: int = 4, groups: int = 1) -> None:
        self.now_ns = 1_000 * TURN_NS
        self.table = SlotTable.create(slots, groups=groups)
        self.engine = Recorder()
        self.server = ModelServer(self.table, self.engine, lambda: self.now_ns)

    @property
    def counters(self):
        return self.server.metrics.counters

    def lease(self, call: str = "a", worker: int = 1) -> Leased:
        answer = self.server.lease(worker, Lease(call))
        assert isinstance(answer, Leased), answer
        return answer

    def send(self, lease: Leased, turn: int, **more: object) -> None:
        pcm = np.full(TURN_SAMPLES, 100 * lease.slot + turn, np.int16)
        chunk = Chunk(lease.generation, turn, self.now_ns, pcm, **more)  # type: ignore[arg-type]
        assert self.table.put_chunk(lease.slot, chunk)

    def tick(self, group: int = 0) -> list[int]:
        rung = self.server.tick(group, self.now_ns)
        self.now_ns += TURN_NS
        return rung

    def hear(self) -> list[Reply]:
        out: list[Reply] = []
        while len(slots := self.table.outbound.ready()):
            out += self.table.replies(self.table.outbound.gather(slots))
            self.table.outbound.advance(slots)
        return out


@pytest.fixture
def node():
    node = Node()
    yield node
    node.table.close()


def test_each_turn_is_answered_with_its_own_number_and_samples(node):
    a, b = node.lease("a", worker=1), node.lease("b", worker=2)
    for turn in range(10):
        node.send(a, turn)
        node.send(b, turn + 40)
        assert node.tick() == [1, 2]
        assert [(r.generation, r.turn, int(r.pcm[0])) for r in node.hear()] == [
            (a.generation, turn, 100 * a.slot + turn),
            (b.generation, turn + 40, 100 * b.slot + turn + 40),
        ]
    assert node.counters.turns_total == 20
    assert node.counters.turns_missed_total == node.counters.turns_late_total == 0


def test_a_call_that_has_not_begun_misses_nothing(node):
    node.lease()
    for _ in range(3):
        assert node.tick() == []
    assert node.counters.turns_missed_total == 0


def test_a_late_turn_goes_into_the_state_and_gets_no_reply(node):
    call = node.lease()
    node.send(call, 0, flags=Flags.FIRST)
    node.tick()
    node.tick()  # turn 1 is not here
    assert node.engine.batches[-1].missing_M.tolist() == [call.slot]
    node.send(call, 1, events=("dtmf 7",))
    node.send(call, 2)
    node.tick()
    batch = node.engine.batches[-1]
    assert [c.turn for c in batch.earlier[call.slot]] == [1]
    assert int(batch.earlier[call.slot][0].pcm[0]) == 100 * call.slot + 1
    assert batch.turns_B.tolist() == [2]
    assert [(r.turn, r.text) for r in node.hear()] == [(0, ""), (2, "dtmf 7")]
    assert (node.counters.turns_missed_total, node.counters.turns_late_total) == (1, 1)


def test_a_chunk_that_comes_just_after_its_tick_is_found_at_the_second_look(node):
    here, held_up = node.lease("a", worker=1), node.lease("b", worker=2)
    for call in (here, held_up):
        node.send(call, 0, flags=Flags.FIRST)
    node.tick()
    node.hear()
    tick_ns = node.now_ns
    node.send(here, 1)
    assert node.server.tick(0, tick_ns, looks=2) == [1] and node.server.awaits_some
    assert not len(node.engine.batches[-1].missing_M), "it may still come"
    node.send(held_up, 1)
    assert node.server.look_again(tick_ns, 1) == [2] and not node.server.awaits_some
    assert [(r.turn, int(r.pcm[0])) for r in node.hear()] == [
        (1, 100 * here.slot + 1),
        (1, 100 * held_up.slot + 1),
    ]
    assert (node.counters.turns_looked_for_total, node.counters.turns_missed_total) == (1, 0)
    node.now_ns += TURN_NS
    for call in (here, held_up):
        node.send(call, 2)
    assert node.tick() == [1, 2], "and its next turn is due as ever"


def test_what_is_not_there_at_the_last_look_is_missing_once(node):
    call = node.lease()
    node.send(call, 0, flags=Flags.FIRST)
    node.tick()
    tick_ns = node.now_ns
    assert node.server.tick(0, tick_ns, looks=2) == []
    assert node.server.look_again(tick_ns, 1) == [] and node.server.awaits_some
    assert node.counters.turns_missed_total == 0
    assert node.server.look_again(tick_ns, 0) == [] and not node.server.awaits_some
    assert node.counters.turns_missed_total == 1
    assert [b.missing_M.tolist() for b in node.engine.batches[1:]] == [[call.slot]]
    node.now_ns += TURN_NS
    node.send(call, 1)
    node.send(call, 2)
    node.tick()
    assert [r.turn for r in node.hear()] == [0, 2]


def test_nobody_waits_for_a_chunk_behind_a_late_one(node):
    call = node.lease()
    node.send(call, 0, flags=Flags.FIRST)
    node.tick()
    node.tick()
    node.send(call, 1)
    node.server.tick(0, node.now_ns, looks=2)
    assert not node.server.awaits_some and node.counters.turns_missed_total == 2


def test_everything_that_waits_is_taken_in_order(node):
    call, other = node.lease("a"), node.lease("b")
    for turn in range(4):
        node.send(call, turn, text=str(turn))
    node.send(other, 0)
    node.tick()
    batch = node.engine.batches[-1]
    assert [(c.turn, c.text) for c in batch.earlier[call.slot]] == [(0, "0"), (1, "1"), (2, "2")]
    assert batch.chunks[0].text == "3" and batch.turns_B.tolist() == [3, 0]
    assert not len(node.table.inbound.ready())
    assert node.counters.turns_late_total == 3


def test_a_chunk_that_is_alone_and_late_is_in_the_state_only(node):
    call = node.lease()
    node.send(call, 0)
    node.tick()
    node.tick()
    node.send(call, 1, text="late")
    node.tick()
    batch = node.engine.batches[-1]
    assert len(batch) == 0 and [c.text for c in batch.earlier[call.slot]] == ["late"]
    assert [r.turn for r in node.hear()] == [0]
    assert (node.counters.turns_missed_total, node.counters.turns_late_total) == (2, 1)


def test_a_caller_that_is_always_late_is_answered_in_the_end(node):
    call = node.lease()
    node.send(call, 0)
    node.tick()
    node.tick()
    heard = node.hear()
    for turn in range(1, 10):
        node.send(call, turn)
        node.tick()
        heard += node.hear()
    assert [r.turn for r in heard] == [0, 5, 6, 7, 8, 9]
    assert node.counters.resyncs_total == 1 and node.counters.turns_late_total == 4


def test_only_what_has_more_than_samples_is_a_whole_chunk(node):
    calls = [node.lease(str(n)) for n in range(4)]
    frame = VideoFrame(5, np.full((240, 320, 3), 9, np.uint8))
    for turn in range(2):
        node.send(calls[0], turn)
        node.send(calls[1], turn, text="x")
        node.send(calls[2], turn, video=(frame,))
        node.send(calls[3], turn, flags=Flags.LAST if turn else Flags.FIRST)
        node.tick()
        assert sorted(node.engine.batches[-1].chunks) == [1, 2, 3]
    (view,) = node.engine.batches[-1].chunks[2].video
    assert view.captured_ns == 5 and (view.rgb == 9).all()


def picture(value: int) -> VideoFrame:
    return VideoFrame(value, np.full((240, 320, 3), value, np.uint8))


def test_an_engine_gets_frames_as_views_and_operators_see_how_many(node):
    call = node.lease()
    for turn in range(3):
        node.send(call, turn, video=(picture(2 * turn), picture(2 * turn + 1)))
        node.tick()
        frames = node.engine.batches[-1].chunks[0].video
        assert [int(frame.rgb[0, 0, 0]) for frame in frames] == [2 * turn, 2 * turn + 1]
        assert all(np.shares_memory(frame.rgb, node.table._video) for frame in frames)
    assert all(not reply.text for reply in node.hear())
    counters = node.server.stats().fields["counters"]
    names = ("video_frames_total", "video_frames_missed_total", "video_frames_overwritten_total")
    assert [counters[name] for name in names] == [6, 0, 0]


def test_the_table_says_how_many_pictures_a_call_looks_at(node):
    assert node.table.pictures.tolist() == [MAX_VIDEO_FRAMES] * 4
    seeing, blind = node.lease("a"), node.server.lease(1, Lease("b", persona="blind"))
    assert [int(node.table.pictures[call.slot]) for call in (seeing, blind)] == [1, 0]
    node.engine.looks[blind.slot] = True  # what it is told in a turn may change it
    node.send(blind, 0, text="look")
    node.tick()
    assert int(node.table.pictures[blind.slot]) == 1


def test_what_is_shed_first_is_not_asked_for(node):
    calls = [node.lease("a"), node.lease("b")]
    took_ns = 10 * TURN_NS

    def slow(batch: Batch) -> Results:
        node.now_ns += took_ns
        return EchoEngine.step(node.engine, batch)

    node.engine.step = slow
    for turn in range(SEEN_STEPS):
        node.send(calls[0], turn)
        node.tick()
    assert node.server.shedding.level >= Shed.VIDEO
    assert [int(node.table.pictures[call.slot]) for call in calls] == [0, 0]
    took_ns = 0
    for turn in range(SEEN_STEPS, SEEN_STEPS + 3 * CALM_STEPS + 3):
        node.send(calls[0], turn)
        node.tick()
        node.hear()
    assert node.server.shedding.level is Shed.NOTHING
    assert [int(node.table.pictures[call.slot]) for call in calls] == [1, 1]


def test_frames_that_are_gone_before_or_during_the_step_are_counted(node):
    call = node.lease()
    for turn in range(3):  # taken at one tick, out of a ring of 4 frames
        node.send(call, turn, video=(picture(2 * turn), picture(2 * turn + 1)))
    echo = node.engine.step

    def slow(batch: Batch) -> Results:
        node.send(call, 3, video=(picture(6), picture(7)))  # over those of turn 1
        return echo(batch)

    node.engine.step = slow
    node.tick()
    counters = node.counters
    assert (counters.video_frames_missed_total, counters.video_frames_total) == (2, 4)
    assert counters.video_frames_overwritten_total == 2


def test_after_the_last_chunk_nothing_is_missing(node):
    call = node.lease()
    node.send(call, 0)
    node.tick()
    node.send(call, 1, flags=Flags.LAST)
    node.tick()
    node.tick()
    assert node.counters.turns_missed_total == 0


def test_torn_and_stale_rows_are_counted_and_the_call_goes_on(node):
    call = node.lease()
    node.send(call, 0)
    node.tick()
    node.send(call, 1)
    node.table.inbound.seq[call.slot, 1] = TORN
    node.tick()
    stale = Chunk(call.generation + 9, 2, 0, np.zeros(TURN_SAMPLES, np.int16))
    node.table.put_chunk(call.slot, stale)
    node.send(call, 2)
    node.tick()
    assert [r.turn for r in node.hear()] == [0, 2]
    assert (node.counters.rows_torn_total, node.counters.rows_stale_total) == (1, 1)
    assert node.counters.turns_missed_total == 1


def test_an_older_whole_row_is_kept_when_the_newest_is_torn(node):
    call = node.lease()
    node.send(call, 0)
    node.tick()
    node.send(call, 1)
    node.send(call, 2)
    node.table.inbound.seq[call.slot, 2] = TORN
    node.tick()
    batch = node.engine.batches[-1]
    assert len(batch) == 0 and [c.turn for c in batch.earlier[call.slot]] == [1]
    assert (node.counters.turns_late_total, node.counters.turns_missed_total) == (1, 1)


def test_a_worker_that_does_not_listen_loses_replies_not_others_time(node):
    call = node.lease()
    for turn in range(6):
        node.send(call, turn)
        assert node.tick() == ([1] if turn < 4 else [])
    assert (node.counters.turns_total, node.counters.publishes_refused_total) == (4, 2)
    assert [r.turn for r in node.hear()] == [0, 1, 2, 3]


def test_a_reply_past_its_budget_is_counted_and_traced(node):
    call, tick_ns = node.lease(), node.now_ns
    node.send(call, 0)
    node.now_ns += 3_000_000
    echo = node.engine.step

    def slow(batch: Batch) -> Results:
        node.now_ns += call.budget_ns
        return echo(batch)

    node.engine.step = slow
    node.server.tick(0, tick_ns)
    assert node.counters.turns_overdue_total == 1
    (late,) = node.server.late_turns.kept
    assert (late.slot, late.turn, late.captured_ns, late.tick_ns) == (call.slot, 0, tick_ns, tick_ns)
    assert late.spans_ms == {
        "captured_to_tick": 0.0,
        "tick_to_ready": 3.0,
        "ready_to_gathered": 0.0,
        "gathered_to_stepped": call.budget_ns / 1e6,
        "stepped_to_published": 0.0,
        "late": 3.0,
    }
    assert node.server.stats().fields["gauges"]["misses_per_million"] == 1_000_000
    node.engine.step = echo
    node.now_ns = tick_ns
    for turn in range(1, 4):
        node.now_ns += TURN_NS
        node.hear()
        node.send(call, turn)
        node.server.tick(0, node.now_ns)
    assert node.server.stats().fields["gauges"]["misses_per_million"] == 250_000
    assert len(node.server.late_turns.kept) == 1


def test_an_overloaded_server_sheds_in_order_and_refuses_new_calls_last(node):
    call = node.lease()
    echo, took_ns = node.engine.step, [2 * TURN_NS]

    def slow(batch: Batch) -> Results:
        node.now_ns += took_ns[0]
        return echo(batch)

    node.engine.step = slow

    def told(turns: range) -> list[Shed]:
        for turn in turns:
            node.send(call, turn)
            node.tick()
            node.hear()
        return [batch.shed for batch in node.engine.batches[-len(turns) :]]

    levels = told(range(10))
    assert levels == sorted(levels) and set(levels) == set(Shed)
    refused = node.server.lease(2, Lease("b"))
    assert isinstance(refused, Refused) and "overloaded" in refused.reason and refused.retry_after_s == 5
    assert node.counters.turns_shed_total == sum(level > Shed.NOTHING for level in levels)
    took_ns[0] = 1
    told(range(10, 10 + CALM_STEPS + 1))
    later = node.server.lease(2, Lease("b"))
    assert isinstance(later, Refused) and "would take" in later.reason, (
        "not shed any more, but steps may be slow"
    )
    assert node.server.stats().fields["gauges"]["shedding"] == Shed.TOKENS


def test_what_the_engine_finds_wrong_when_idle_is_counted(node):
    node.server.check()
    node.engine.check = lambda: ["slot 1: not whole", "slot 2: not whole"]
    node.server.check()
    assert node.counters.checks_failed_total == 2


def test_a_released_call_is_silent_and_its_slot_is_new_to_the_next(node):
    call = node.lease()
    node.send(call, 0, text="old")
    node.server.release(1, Release(call.call, call.slot, call.generation))
    assert node.tick() == []
    node.now_ns += REST_NS
    again = [node.lease(f"b{n}") for n in range(4)]
    same = next(lease for lease in again if lease.slot == call.slot)
    assert same.generation > call.generation
    node.send(same, 0)
    node.tick()
    assert [(r.generation, r.text) for r in node.hear()] == [(same.generation, "")]


def test_a_worker_that_is_gone_leaves_its_slots_and_its_engines_state(node):
    calls = [node.lease(str(n), worker=n % 2) for n in range(4)]
    node.server.gone(1)
    for call in calls:
        node.send(call, 0)
    assert node.tick() == [0]
    assert [r.turn for r in node.hear()] == [0, 0]
    assert node.server.stats().fields["gauges"]["slots_resting"] == 2


def test_a_persona_that_the_engine_has_not_is_refused(node):
    answer = node.server.lease(1, Lease("a", persona="nobody"))
    assert answer == Refused("a", "persona = 'nobody': expected a known one", 0)
    assert node.server.leases.leased == 0 and node.server.leases.refused.wish == 1


def test_what_the_engine_raises_comes_out_of_the_tick(node):
    def broken(batch: Batch) -> Results:
        raise RuntimeError("device lost")

    call = node.lease()
    node.send(call, 0)
    node.engine.step = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="device lost"):
        node.tick()


def test_a_snapshot_of_huge_numbers_is_one_packet(node):
    def huge(value):
        match value:
            case dict():
                return {name: huge(inner) for name, inner in value.items()}
            case list() | tuple():
                return [huge(inner) for inner in value]
        return 2**53

    fields = node.server.stats().fields
    assert json.dumps(fields)
    assert set(fields) == {"counters", "gauges", "histograms"}
    assert len(encode(Stats(huge(fields)))) < MAX_BYTES
