"""Ranks, here threads that share memory, turn as one step does: each with some heads and some experts."""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.device.random_weights import random_flow_head, random_interaction  # noqa: E402
from model_server.model.device.step import DeviceStep  # noqa: E402
from model_server.model.flow_head import OUTPUTS  # noqa: E402
from model_server.model.inputs import TurnInputs  # noqa: E402
from model_server.model.sharding.parallel import rank_of  # noqa: E402
from model_server.model.sharding.plan import plan_of  # noqa: E402
from model_server.model.vocabulary import END  # noqa: E402
from tests.support.random_turns import random_turns  # noqa: E402
from turn_kernels.all_reduce.shared_memory import SharedMemory, region_bytes  # noqa: E402

CPU = torch.device("cpu")
HALF_BYTES = 4096
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LSB = 2
SMALL = replace(
    DIGITS,
    **dict(name="small", layers=3, hidden=32, heads=8, kv_heads=4, kv_heads_sliding=4, head_dim=8),
    **dict(dense_width=48, dense_layers=1, expert_width=24, experts=4, window=24, bias_extent=30),
    **dict(global_first=7, global_budget=60, vision_widths=(8, 8, 8), shared_experts=2, log_floor=30),
)
ROWS = ([1, 0], [0], [3, 0, 2, 1], [2], [0, 1, 3]) * 3


def turned(step: DeviceStep) -> list[Any]:
    rng, out = np.random.default_rng(3), []
    for row in range(4):
        step.open(row)
    for number, rows in enumerate(ROWS):
        noise = torch.randn(4 * len(rows), OUTPUTS, generator=torch.Generator().manual_seed(number))
        found = step.turn(rows, TurnInputs.of(random_turns(rng, len(rows))), noise)
        out.append((found.tokens, found.hidden.clone(), found.pcm.clone()))
    assert step.state.broken() == []
    return out


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_turn_as_one_step_does(ranks: int) -> None:
    torch.set_num_threads(1)
    whole, head = random_interaction(SMALL, 1, torch.float32, CPU), random_flow_head(SMALL.hidden, 2, CPU)
    with torch.no_grad():
        whole.unembedding.weight[END] *= 4.0  # some turns end at once, some write as much as they may
    plan = plan_of(SMALL, ranks)
    memory = mmap.mmap(-1, region_bytes(ranks, HALF_BYTES))

    def rank(number: int) -> list[Any]:
        with torch.inference_mode():
            sums = SharedMemory(memory, number, ranks, HALF_BYTES)
            part = rank_of(whole, plan, number, sums)
            return turned(DeviceStep(part, head, 4, buckets=(1, 2, 4), contexts=(0, 8), add=sums.all_reduce))

    wanted = turned(DeviceStep(whole, head, 4, buckets=(1, 2, 4), contexts=(0, 8)))
    with ThreadPoolExecutor(ranks) as pool:
        found = list(pool.map(rank, range(ranks)))
    assert len({len(tokens) for turn in wanted for tokens in turn[0]}) > 1, "some write more than others"
    for of_rank in found:
        for (tokens, hidden, pcm), (right, right_hidden, right_pcm) in zip(of_rank, wanted, strict=True):
            assert tokens == right
            torch.testing.assert_close(hidden, right_hidden, **CLOSE)
            assert int((pcm.int() - right_pcm.int()).abs().max()) <= LSB
    for turn in zip(*found, strict=True):
        assert all(torch.equal(turn[0][1], other[1]) for other in turn[1:]), "every rank has the same bits"
