"""The measurement of steps, with small networks: one session by the package, then calls by the engine."""

from __future__ import annotations

import pytest

from tests.on_moshi import tiny
from tests.support.moshi_here import needs_moshi

pytestmark = needs_moshi


def test_both_ways_are_measured_on_the_same_networks() -> None:
    import torch

    from model_server.engine.moshi.sequences import Networks
    from model_server.engine.moshi.steps import alone, together

    networks = Networks.random(tiny.LM, tiny.MIMI, torch.float32, torch.device("cpu"))
    one = alone(networks, 5)
    several = [together(networks, calls, 5) for calls in (2, 3)]
    assert (one["way"], one["calls"], one["frames"]) == ("package", 1, 5)
    assert [found["calls"] for found in several] == [2, 3]
    for found in several:
        assert 0 < found["frame_p50_ms"] <= found["frame_p99_ms"] <= found["turn_p99_ms"]
        assert found["row_bytes"] == several[0]["row_bytes"] > 0 and found["roofline_frame_ms"] >= 0


def test_without_a_gpu_nothing_of_that_size_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from model_server.engine.moshi import steps

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert steps.main(["--calls", "1"]) == 2
    assert "no CUDA device here" in capsys.readouterr().err
