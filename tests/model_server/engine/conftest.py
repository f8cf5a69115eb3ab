"""A small network with random weights, as a checkpoint, and calls that are given to it turn by turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.chunk import PCM, Chunk
from media.ring import META
from media.timebase import TURN_NS, TURN_SAMPLES
from model_server.batch import Batch


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")
    return random_checkpoint(tmp_path_factory.mktemp("small"))


def random_checkpoint(folder: Path) -> Path:
    """A network that writes a token now and then, and sounds all the time."""
    import torch

    from model_server.model import checkpoint as checkpoints
    from model_server.model.config import DIGITS
    from model_server.model.flow_head import FlowHead
    from model_server.model.interaction import Interaction
    from model_server.model.vocabulary import END
    from model_server.model.vocoder import LOG_F0

    small = replace(
        DIGITS,
        **dict(name="small", layers=2, global_every=2, hidden=32, heads=4, head_dim=8, dense_width=48),
        **dict(expert_width=24, experts=4, window=24, bias_extent=30, global_first=7, global_budget=60),
        vision_widths=(8, 8, 8),
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
    checkpoints.save(path, small, {"interaction": model, "flow_head": head})
    return path


@pytest.fixture
def engine(checkpoint: Path) -> Any:
    from model_server.engine.digits import DigitsEngine

    return DigitsEngine(checkpoint)


def voice(seed: int, turns: int) -> PCM:
    """int16 [turns, 3200]: noise that comes and goes."""
    rng = np.random.default_rng(seed)
    loud = rng.uniform(0, 4000, (turns, 1)) * (rng.random((turns, 1)) < 0.6)
    return (rng.standard_normal((turns, TURN_SAMPLES)) * loud).clip(-32768, 32767).astype(np.int16)


def batch_of(
    turns: Mapping[int, int],
    pcm: Mapping[int, PCM],
    *,
    played: int = TURN_SAMPLES,
    chunks: Mapping[int, Chunk] | None = None,
    earlier: Mapping[int, Sequence[Chunk]] | None = None,
    missing: Sequence[int] = (),
) -> Batch:
    """Slot -> turn, and slot -> int16 [3200]; `chunks` and `earlier` by slot."""
    slots = sorted(turns)
    meta = np.zeros(len(slots), META)
    meta["turn"] = [turns[slot] for slot in slots]
    meta["played"] = played
    return Batch(
        tick_ns=TURN_NS,
        slots_B=np.array(slots, np.intp),
        meta_B=meta,
        pcm_BS=np.array([pcm[slot] for slot in slots], np.int16).reshape(len(slots), TURN_SAMPLES),
        chunks={slots.index(slot): chunk for slot, chunk in (chunks or {}).items()},
        earlier={slot: tuple(older) for slot, older in (earlier or {}).items()},
        missing_M=np.array(missing, np.intp),
    )


def chunk_of(turn: int, pcm: PCM, **more: Any) -> Chunk:
    return Chunk(1, turn, 0, pcm, played_samples=TURN_SAMPLES, **more)
