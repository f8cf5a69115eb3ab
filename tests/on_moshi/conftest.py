"""Small weights of the package's own classes, and its own loop for one session, to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.chunk import PCM
from media.resample import Resampler
from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.config import set_environment
from model_server.engine.moshi.frames import FRAME_HZ, FRAME_SAMPLES
from tests.on_moshi import tiny

SLOTS = 8


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    set_environment(NO_TORCH_COMPILE="1")  # the package asks when it is imported
    pytest.importorskip("moshi", reason="the package moshi is not in this environment: make test-moshi")
    return tiny.write(tmp_path_factory.mktemp("moshi"))


@dataclass
class Answered:
    """Of one session, a row for each frame that is answered."""

    text: list[int] = field(default_factory=list)
    codes: list[tuple[int, ...]] = field(default_factory=list)
    pcm: list[PCM] = field(default_factory=list)


@dataclass
class Recorder:
    """Keeps what each slot was answered, in place of the engine's own `step` of its rows."""

    engine: Any
    of: dict[int, Answered] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._step = self.engine.sequences.step
        self.engine.sequences.step = self

    def __call__(self, heard_RS: PCM, takes_part_R: Any) -> Any:
        frame = self._step(heard_RS, takes_part_R)
        for slot in np.flatnonzero(frame.spoken_R).tolist():
            kept = self.of.setdefault(slot, Answered())
            kept.text.append(int(frame.text_R[slot]))
            kept.codes.append(tuple(frame.codes_RK[slot].tolist()))
            kept.pcm.append(frame.pcm_RS[slot].copy())
        return frame


@pytest.fixture
def engine(model_folder: Path) -> Any:
    from model_server.engine.moshi.engine import MoshiEngine
    from model_server.engine.moshi.weights import find

    return MoshiEngine(find(str(model_folder)), calls=SLOTS)


@pytest.fixture
def recorded(engine: Any) -> Recorder:
    return Recorder(engine)


def frames_of(turns: Sequence[PCM]) -> Iterator[PCM]:
    """int16 [1920] at 24 kHz: the whole frames of these turns of 200 ms."""
    resampler = Resampler(MODEL_HZ, FRAME_HZ)
    sound = np.concatenate([resampler.push(turn) for turn in turns])
    for begin in range(0, len(sound) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        yield sound[begin : begin + FRAME_SAMPLES]


def packages_own(model_folder: Path, turns: Sequence[PCM], noise: Any = None, **how: Any) -> Answered:
    """The loop of the package's `server.py`, without its socket and Opus: one session from its first frame on.

    Without `noise` the likeliest token is taken; else tokens are drawn with it, `how` as `LMGen` has it.
    """
    import torch
    from moshi.models import LMGen, loaders

    mimi = loaders.get_mimi(model_folder / "mimi.safetensors", tiny.MIMI, num_codebooks=tiny.CODEBOOKS)
    lm = loaders.get_moshi_lm(model_folder / "model.safetensors", dict(tiny.LM), dtype=torch.float32)
    lm_gen = LMGen(lm, use_sampling=noise is not None, **how)
    kept, skip_frames = Answered(), 1
    with torch.no_grad(), mimi.streaming(1), lm_gen.streaming(1):
        for frame in frames_of(turns):
            codes = mimi.encode(torch.from_numpy(frame).float()[None, None] / 32_768)
            if skip_frames:
                mimi.reset_streaming()
                skip_frames -= 1
            for c in range(codes.shape[-1]):
                with noise.at(lm_gen._streaming_state.offsets) if noise else nullcontext():
                    tokens = lm_gen.step(codes[:, :, c : c + 1])
                if tokens is None:
                    continue
                main_pcm = mimi.decode(tokens[:, 1:])[0, 0].numpy()
                kept.text.append(int(tokens[0, 0, 0]))
                kept.codes.append(tuple(tokens[0, 1:, 0].tolist()))
                kept.pcm.append(np.rint(main_pcm * 32_768).clip(-32_768, 32_767).astype(np.int16))
    return kept


def speech(seed: int, turns: int) -> PCM:
    """int16 [turns, 3200]: noise that comes and goes, and is never quite silent."""
    rng = np.random.default_rng(seed)
    loud = rng.uniform(300, 6000, (turns, 1))
    return (rng.standard_normal((turns, TURN_SAMPLES)) * loud).clip(-32768, 32767).astype(np.int16)


def assert_equal(ours: Answered, theirs: Answered) -> None:
    """The same tokens; the same sound but for how sums of another order round."""
    assert ours.text == theirs.text
    assert ours.codes == theirs.codes
    apart = np.abs(np.concatenate(ours.pcm).astype(int) - np.concatenate(theirs.pcm)).max()
    assert apart <= 1, apart
