"""What sums cost is counted, and counted again when a captured pass is replayed."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

import torch

from model_server.ranks.collectives import Meter, MeteredCollectives
from model_server.ranks.memory import RankMemory
from turn_kernels.all_reduce import Op, Way


@pytest.fixture
def alone() -> MeteredCollectives:
    """A team of one."""
    made = MeteredCollectives(RankMemory.create(1))
    made.connect()
    return made


def test_calls_and_bytes_of_each_op_are_counted(alone: MeteredCollectives) -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(alone.all_reduce(x.mT.clone()), x.mT) and torch.equal(alone.all_gather(x)[0], x)
    alone.all_gather(x.bfloat16())
    fields = alone.meter.fields()
    assert {op: (each["way"], each["calls"], each["bytes"]) for op, each in fields.items()} == {
        "all_reduce": ("shared_memory", 1, 60),
        "all_gather": ("shared_memory", 2, 90),
    }
    gauges = alone.meter.gauges
    assert (gauges["rank_sums_total"], gauges["rank_sum_bytes_total"]) == (3, 150) and gauges[
        "rank_sum_ns"
    ] > 0


def test_what_is_captured_counts_when_it_is_replayed_and_not_before(alone: MeteredCollectives) -> None:
    meter, x = alone.meter, torch.ones(4)
    alone.all_reduce(x)
    mark = meter.mark()
    for _ in range(2):  # as in a capture
        alone.all_reduce(x)
    alone.all_gather(x)
    cost = meter.take_back(mark)
    assert meter.gauges["rank_sums_total"] == 1
    for _ in range(3):
        meter.again(cost)
    assert (meter.spent[Op.ALL_REDUCE].calls, meter.spent[Op.ALL_REDUCE].bytes) == (1 + 3 * 2, 16 * 7)
    assert (meter.spent[Op.ALL_GATHER].calls, meter.spent[Op.ALL_GATHER].bytes) == (3, 16 * 3)


def test_a_meter_begins_at_nothing() -> None:
    meter = Meter()
    assert meter.fields() == {} and set(meter.gauges.values()) == {0}
    meter.ways[Op.ALL_REDUCE] = Way.NCCL
    assert meter.fields() == {"all_reduce": {"way": "nccl", "calls": 0, "bytes": 0, "ns": 0}}
