"""The model's streaming state of all calls, a row a slot: one step is one frame of 80 ms of some of the rows.

    sound --codec--> codes of what is heard --language model--> text token, codes of what is said --codec--> sound

All of it is the package's: its codec, its generation with the delays between streams, its rings, masked by row, and
its CUDA graphs, which are made once, for all rows. A row that takes part in a step changes no other; one that does
not is after the step as it was. A row that is cleared is as new.

As in the package's server a call's first frame is heard in the codec alone: after it that row of the codec begins
again.

Shapes: R rows, K codebooks of what is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from media.chunk import PCM
from model_server.config import set_environment
from model_server.engine.moshi.frames import FRAME_SAMPLES
from model_server.engine.moshi.weights import Weights

FULL_SCALE = 32_768.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What a step made of the rows."""

    spoken_R: npt.NDArray[np.bool_]
    """Rows that have something below: those that took part, but for a call's first frames."""
    text_R: npt.NDArray[np.int64]
    """The token of the text stream."""
    codes_RK: npt.NDArray[np.int64]
    pcm_RS: npt.NDArray[np.int16]
    """int16 [R, 1920], 24 kHz."""


class Sequences:
    """Of so many rows. Steps and clears come from one thread."""

    def __init__(self, weights: Weights, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        """Loads both networks."""
        if device.type == "cpu":
            set_environment(NO_TORCH_COMPILE="1")  # it would compile two norms, for half a minute
        from moshi.models import LMGen, loaders

        self.rows, self.device = rows, device
        self.lm = loaders.get_moshi_lm(weights.lm, dict(weights.lm_config), device=device, dtype=dtype)
        codebooks = max(self.lm.dep_q, self.lm.n_q - self.lm.dep_q)
        self.mimi = loaders.get_mimi(weights.mimi, weights.mimi_config, device, codebooks)
        for module in (self.lm, self.mimi):
            module.eval().requires_grad_(False)
        self._generation = LMGen(self.lm, **weights.generation, support_out_of_sync=True)
        self.owed_frames = int(self._generation.max_delay)
        """A call's first so many steps are not answered."""
        self.mimi.streaming_forever(rows)
        self._generation.streaming_forever(rows)
        self._is_fresh_R = np.ones(rows, np.bool_)

    @property
    def silent_tokens(self) -> frozenset[int]:
        """Of the text stream, that stand for no text."""
        return frozenset({self.lm.text_padding_token_id, self.lm.end_of_text_padding_id})

    @property
    def bytes_a_row(self) -> int:
        """Of all that is kept between steps."""
        kept = [tensor for state in self._states() for tensor in _tensors(state)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept) // self.rows

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """As new; nothing of it is left."""
        only = torch.zeros(self.rows, dtype=torch.bool)
        only[row] = True
        only = only.to(self.device)
        self.mimi.reset_streaming(only)
        self._generation.reset_streaming(only)
        for state in self._states():
            ring = getattr(state, "kv_cache", None)
            if ring is not None:
                ring.cache[:, row].zero_()
        self._is_fresh_R[row] = True

    @torch.inference_mode()
    def step(self, heard_RS: PCM, takes_part_R: npt.NDArray[np.bool_]) -> Frame:
        """int16 [R, 1920] at 24 kHz, what rows heard that take part; the others' samples do not matter."""
        takes_part = torch.from_numpy(takes_part_R).to(self.device)
        sound = torch.from_numpy(heard_RS).to(self.device).float()[:, None] / FULL_SCALE
        self.mimi.set_exec_mask(takes_part)
        codes = self.mimi.encode(sound)
        fresh_R = self._is_fresh_R & takes_part_R
        if fresh_R.any():
            self.mimi.reset_streaming(torch.from_numpy(fresh_R).to(self.device))
            self._is_fresh_R &= ~takes_part_R
        self._generation.set_exec_mask(takes_part)
        tokens = self._generation.step(codes)
        spoken = takes_part & (tokens[:, 0, 0] != self.lm.ungenerated_token_id)
        self.mimi.set_exec_mask(spoken)
        said = self.mimi.decode(tokens[:, 1:].clamp(min=0))
        pcm = (said[:, 0] * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)
        told = tokens[..., 0].cpu().numpy()
        return Frame(spoken.cpu().numpy(), told[:, 0], told[:, 1:], pcm.cpu().numpy())

    def check(self, row: int) -> list[str]:
        """Of a row: numbers that are none, in what it keeps."""
        return [
            f"{type(state).__name__}: numbers that are none"
            for state in self._states()
            for tensor in _tensors(state)
            if tensor.is_floating_point() and not bool(_row(tensor, row).isfinite().all())
        ]

    def _states(self) -> Iterator[Any]:
        for module in (self.mimi, self._generation, self.lm):
            for name, state in module.get_streaming_state().items():
                if module is self._generation and name:
                    continue
                yield state


def _tensors(state: Any) -> Iterator[Tensor]:
    """Of one layer's state, those with a row a call."""
    ring = getattr(state, "kv_cache", None)
    if ring is not None:
        yield ring.cache
    for name in ("previous", "partial"):
        if isinstance(kept := getattr(state, name, None), Tensor):
            yield kept


def _row(tensor: Tensor, row: int) -> Tensor:
    """Rings are [2, R, ...], the others [R, ...]."""
    return tensor[:, row] if tensor.dim() == 5 else tensor[row]


def dtype_of(products: str, device: torch.device) -> torch.dtype:
    """As in `ModelServerConfig.products`: auto is what the weights come in on a GPU, and float32 on a CPU."""
    if products == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[products]


def silence(rows: int) -> PCM:
    """int16 [R, 1920] for rows that do not take part."""
    return np.zeros((rows, FRAME_SAMPLES), np.int16)
