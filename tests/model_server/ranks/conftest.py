"""Small networks with random weights, for two and for four ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that two ranks can share."""
    return random_checkpoint(tmp_path_factory.mktemp("two"), kv_heads=2)


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that four ranks can share."""
    return random_checkpoint(tmp_path_factory.mktemp("four"), kv_heads=4)


def random_checkpoint(folder: Path, kv_heads: int) -> Path:
    """A network that writes a token now and then, and sounds all the time."""
    torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")
    from model_server.model import checkpoint
    from model_server.model.config import DIGITS
    from model_server.model.flow_head import FlowHead
    from model_server.model.interaction import Interaction
    from model_server.model.vocabulary import END
    from model_server.model.vocoder import LOG_F0

    small = replace(
        DIGITS,
        **dict(name="small", layers=3, hidden=32, heads=8, head_dim=8, dense_width=48, dense_layers=1),
        **dict(kv_heads=kv_heads, kv_heads_sliding=kv_heads, expert_width=24, experts=4, window=24),
        **dict(bias_extent=30, global_first=7, global_budget=60, vision_widths=(8, 8, 8)),
    )
    model, head = Interaction(small), FlowHead(small.hidden)
    model.initialise(seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in (*model.parameters(), *head.parameters()):
            parameter += torch.randn(parameter.shape, generator=generator) * 0.2
        model.unembedding.weight[END] *= 2.0
        head.mean.fill_(-3.5)
        head.deviation.fill_(0.2)
        head.mean[LOG_F0], head.deviation[LOG_F0] = 5.2, 1e-6  # else rounding is heard in the phase
    path = folder / "small.safetensors"
    checkpoint.save(path, small, {"interaction": model, "flow_head": head})
    return path
