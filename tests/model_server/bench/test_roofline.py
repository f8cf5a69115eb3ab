"""What a step must read, multiply and attend to, in exact numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.bench.roofline import (  # noqa: E402
    Speeds,
    attention_flops,
    experts_touched,
    kv_bytes,
    pass_seconds,
    row_weights,
    step_seconds,
    weight_bytes,
)
from model_server.model.config import DIGITS, config_of  # noqa: E402
from model_server.model.interaction import Interaction  # noqa: E402
from model_server.model.parameters import count_parameters  # noqa: E402

SMALL_30B = config_of("small-30b-a3b")
FOUR_KEYS = replace(
    DIGITS, layers=2, heads=2, kv_heads=1, kv_heads_sliding=1, head_dim=8, window=3, bias_extent=4
)


def test_experts_that_rows_touch() -> None:
    assert experts_touched(128, 6, 1) == 6
    assert experts_touched(4, 2, 2) == 3  # half of the half that the first row left
    assert [round(experts_touched(256, 8, rows)) for rows in (8, 16, 32, 64)] == [57, 102, 163, 222]
    assert round(experts_touched(128, 6, 1024), 6) == 128


@pytest.mark.parametrize("name", ["digits", "small-30b-a3b"])
def test_many_rows_touch_all_of_trunk_and_unembedding(name: str) -> None:
    config = config_of(name)
    with torch.device("meta"):
        model = Interaction(config)
    parameters = [*model.trunk.parameters(), *model.unembedding.parameters()]
    assert weight_bytes(config, 10**6, 2) == pytest.approx(2 * sum(p.numel() for p in parameters), rel=1e-12)


def test_a_row_of_the_30b_model_meets_three_billion() -> None:
    active = count_parameters(SMALL_30B).active
    assert 2.2e9 < row_weights(SMALL_30B) < active
    idle = weight_bytes(SMALL_30B, 10**6, 1) - weight_bytes(SMALL_30B, 1, 1)
    assert idle == pytest.approx((128 - 6) * 3 * 2048 * 768 * 46)


def test_keys_and_values_that_a_pass_reads() -> None:
    config = replace(FOUR_KEYS, global_first=2, global_budget=4, global_every=2)
    # layer 0 sees 3 keys and layer 1 sees 2 + 4; a pass of 2 positions one more; keys and values of 1 head x 8
    assert kv_bytes(config, 2, item_bytes=2) == (4 + 7) * 2 * 8 * 2
    assert attention_flops(config) == 4 * 2 * 8 * (3 + 6)
    assert kv_bytes(SMALL_30B, 1, 2) == 2 * 4 * 128 * 2 * (40 * 512 + 8 * (1024 + 32_768))


def test_the_slower_of_reading_and_multiplying_counts() -> None:
    read = Speeds(bytes_a_second=1e9, flops_a_second=1e30)
    expected_s = (weight_bytes(DIGITS, 24, 4) + 3 * kv_bytes(DIGITS, 8, 4)) / 1e9
    assert pass_seconds(DIGITS, 3, 8, read, 4) == pytest.approx(expected_s)
    multiply = Speeds(bytes_a_second=1e30, flops_a_second=1e9)
    flops = 24 * (2 * row_weights(DIGITS) + attention_flops(DIGITS)) + 3 * 2 * 256 * 192
    assert pass_seconds(DIGITS, 3, 8, multiply, 4) == pytest.approx(flops / 1e9)


def test_a_step_is_a_prefill_and_its_tokens() -> None:
    speeds = Speeds(1e9, 1e12)
    of_tokens = 2 * pass_seconds(DIGITS, 5, 5, speeds, 4)
    assert step_seconds(DIGITS, 5, 6, 2, speeds, 4) == pytest.approx(
        pass_seconds(DIGITS, 5, 14, speeds, 4) + of_tokens
    )
