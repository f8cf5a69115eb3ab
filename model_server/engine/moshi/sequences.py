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

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from media.chunk import PCM
from model_server.config import set_environment
from model_server.engine.moshi.frames import FRAME_SAMPLES
from model_server.engine.moshi.noise import Noise
from model_server.engine.moshi.prompts import (
    UNGENERATED,
    Prompt,
    Voice,
    columns,
    recorded_voice,
    stored_voice,
)
from model_server.engine.moshi.weights import PERSONAPLEX, Weights

FULL_SCALE = 32_768.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What a step made of the rows."""

    spoken_R: npt.NDArray[np.bool_]
    """Rows that have something below: those that took part, but for a call's first frames."""
    text_R: npt.NDArray[np.int64]
    """The token of the text stream."""
    codes_RK: npt.NDArray[np.int64]
    heard_RK: npt.NDArray[np.int64]
    """What was heard in that frame, of every row that took part."""
    pcm_RS: npt.NDArray[np.int16]
    """int16 [R, 1920], 24 kHz."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Of the package."""

    lm: Any
    mimi: Any
    device: torch.device

    @classmethod
    def load(cls, weights: Weights, dtype: torch.dtype, device: torch.device) -> Networks:
        """`ValueError` for files that do not fit their configuration."""
        _prepare_package(device)
        try:
            lm = _language_model(weights, dtype, device)
        except RuntimeError as wrong:
            raise ValueError(f"weights: {weights.lm} does not fit config.json: {wrong}") from wrong
        return cls._of(lm, weights.mimi, weights.mimi_config, device)

    @classmethod
    def random(
        cls, lm_config: Mapping[str, Any], mimi_config: Any, dtype: torch.dtype, device: torch.device
    ) -> Networks:
        """As large as the published ones, and knowing nothing: for measuring."""
        _prepare_package(device)
        from moshi.models import loaders

        lm = loaders.get_moshi_lm(None, dict(lm_config), device=device, dtype=dtype)
        return cls._of(lm, None, mimi_config, device)

    @classmethod
    def _of(cls, lm: Any, mimi_file: Path | None, mimi_config: Any, device: torch.device) -> Networks:
        from moshi.models import loaders

        codebooks = max(lm.dep_q, lm.n_q - lm.dep_q)
        mimi = loaders.get_mimi(mimi_file, mimi_config, device, codebooks)
        for module in (lm, mimi):
            module.eval().requires_grad_(False)
        return cls(lm, mimi, device)


def _prepare_package(device: torch.device) -> None:
    if device.type == "cpu":
        set_environment(NO_TORCH_COMPILE="1")  # it would compile two norms, for half a minute


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a prompt leaves in a row: the language model's state by layer, and the next column."""

    n: int
    """Positions."""
    layers: Mapping[str, Mapping[str, Tensor]]
    column_Q: Tensor


class Sequences:
    """Of so many rows. Steps and clears come from one thread."""

    def __init__(self, networks: Networks, rows: int, generation: Mapping[str, Any]) -> None:
        """`generation`: how tokens are chosen. The networks stream for these rows alone from now on."""
        from moshi.models import LMGen

        self.rows, self.device = rows, networks.device
        self.lm, self.mimi = networks.lm, networks.mimi
        self._how = dict(generation) | {"support_out_of_sync": True}
        self._generation = LMGen(self.lm, **self._how)
        self._noise, self._noise_alone = (self._noise_for(count) for count in (rows, 1))
        self._initial_Q = torch.tensor(
            [self.lm.text_initial_token_id, *[self.lm.initial_token_id] * self.lm.n_q]
        )
        self.owed_frames = int(self._generation.max_delay)
        """A call's first so many steps are not answered."""
        self.mimi.streaming_forever(rows)
        self._generation.streaming_forever(rows)
        self._is_fresh_R = np.ones(rows, np.bool_)

    def _noise_for(self, rows: int) -> Noise:
        """`ValueError` for a way of drawing that it has no numbers for."""
        most = {name: int(getattr(self._generation, name)) for name in ("top_k", "top_k_text")}
        if wrong := [name for name, count in most.items() if count < 1]:
            raise ValueError(f"weights: lm_gen_config: {wrong[0]} = {most[wrong[0]]}; expected 1 or more")
        return Noise(rows, 1 + self.lm.dep_q, max(most.values()), self.device)

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
        with self._noise.at(self._generation._streaming_state.offsets):
            tokens = self._generation.step(codes)
        spoken = takes_part & (tokens[:, 0, 0] != self.lm.ungenerated_token_id)
        self.mimi.set_exec_mask(spoken)
        said = self.mimi.decode(tokens[:, 1:].clamp(min=0))
        pcm = (said[:, 0] * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)
        told = tokens[..., 0].cpu().numpy()
        heard = codes[:, :, 0].cpu().numpy()
        return Frame(spoken.cpu().numpy(), told[:, 0], told[:, 1:], heard, pcm.cpu().numpy())

    # -- prompts

    @property
    def delays(self) -> list[int]:
        """Of each stream, in frames."""
        return list(self.lm.delays)

    @torch.inference_mode()
    def voice(self, file: Path) -> Voice:
        """`ValueError` for a file that is none."""
        if file.suffix == ".pt":
            return stored_voice(file, self.delays)
        frames = torch.from_numpy(recorded_voice(file)).to(self.device).float() / FULL_SCALE
        with _alone(self.mimi), self.mimi.streaming(1):
            codes = [self.mimi.encode(frame[None, None]) for frame in frames]
        return Voice(said_KF=torch.cat(codes, dim=2)[0].cpu())

    @torch.inference_mode()
    def prepare(self, prompt: Prompt) -> Beginning:
        """The prompt through the language model, in one pass but for its last frame, which makes the next one."""
        from moshi.models import LMGen

        first = _first(prompt)
        made = columns(prompt.frames_QF, first, self.delays, self._initial_Q)
        known = made[1 : self.lm.dep_q + 1, -1].to(self.device)

        def force(codes: Tensor) -> None:
            codes.copy_(torch.where(known == UNGENERATED, codes, known))

        with _alone(self.lm):
            alone = LMGen(self.lm, **self._how, on_audio_hook=force)
            with alone.streaming(1):
                self._fill(prompt.embedded, made[:, : prompt.n - 1 - first], first)
                state = alone._streaming_state
                places = state.cache.shape[2]
                for position in (prompt.n - 1, prompt.n):
                    state.cache[0, :, position % places] = made[:, position - first].to(self.device)
                state.offsets.fill_(prompt.n - 1)
                heard_K = prompt.frames_QF[self.lm.dep_q + 1 :, -1]
                with self._noise_alone.at(state.offsets):
                    alone.step(heard_K[None, :, None].to(self.device))
                return self._left(prompt.n, state.cache[0, :, prompt.n % places].clone())

    @torch.inference_mode()
    def begin(self, row: int, beginning: Beginning) -> None:
        """A new sequence of this row, behind a prompt; its first frame is answered."""
        self.clear(row)
        self._is_fresh_R[row] = False
        self._put(row, beginning)

    @torch.inference_mode()
    def shorten(self, row: int, prompt: Prompt, newest_QF: Tensor) -> None:
        """The prompt and these newest frames in place of all that the language model remembers; the codec, and what
        is said next, stay as they are."""
        frames, first = torch.cat([prompt.frames_QF, newest_QF], dim=1), _first(prompt)
        made = columns(frames, first, self.delays, self._initial_Q)
        state = self._generation._streaming_state
        column_Q = state.cache[row, :, int(state.offsets[row]) % state.cache.shape[2]].clone()
        with _alone(self.lm), self.lm.streaming(1):
            self._fill(prompt.embedded, made[:, :-1], first)
            left = self._left(prompt.n + newest_QF.shape[1], column_Q)
        self._put(row, left)

    def _fill(self, embedded: Tensor | None, columns_QT: Tensor, first: int) -> None:
        """So many positions of a language model that streams alone, in one pass."""
        from moshi.utils.compile import no_compile

        if embedded is not None:
            columns_QT = columns_QT[:, len(embedded) - first :]
        sequence = columns_QT[None].to(self.device)
        parts = [emb(sequence[:, 1 + k]) for k, emb in enumerate(self.lm.emb)]
        x_TD = sum(parts[1:], parts[0]) + self.lm.text_emb(sequence[:, 0])
        if embedded is not None:
            x_TD = torch.cat([embedded[None].to(x_TD), x_TD], dim=1)
        with no_compile():  # else each length of a prompt would be compiled
            self.lm.transformer(x_TD)

    def _left(self, n: int, column_Q: Tensor) -> Beginning:
        """Of the one row of a language model that streams alone: rings up to position n, and where it is."""
        layers: dict[str, dict[str, Tensor]] = {}
        for name, state in self.lm.get_streaming_state().items():
            layers[name] = {
                key: value[0].clone() for key, value in vars(state).items() if key in ("offset", "offsets")
            }
            ring = getattr(state, "kv_cache", None)
            if ring is not None:
                layers[name] |= {
                    "cache": ring.cache[:, 0, :, :n].clone(),
                    "end_offset": ring.end_offset[0].clone(),
                }
        return Beginning(n, layers, column_Q)

    def _put(self, row: int, beginning: Beginning) -> None:
        for name, state in self.lm.get_streaming_state().items():
            for key, value in beginning.layers[name].items():
                if key == "cache":
                    state.kv_cache.cache[:, row, :, : value.shape[2]] = value
                elif key == "end_offset":
                    state.kv_cache.end_offset[row] = value
                else:
                    getattr(state, key)[row] = value
        state = self._generation._streaming_state
        state.cache[row, :, beginning.n % state.cache.shape[2]] = beginning.column_Q
        state.offsets[row] = beginning.n

    @torch.inference_mode()
    def check(self, row: int) -> list[str]:
        """Of a row: numbers that are none, in what its newest frame left. Rings are too large to be read whole."""
        wrong = []
        for state in self._states():
            ring = getattr(state, "kv_cache", None)
            if ring is not None and (end := int(ring.end_offset[row])):
                newest = [ring.cache[:, row, :, (end - 1) % ring.capacity]]
            else:
                newest = [tensor[row] for tensor in _tensors(state) if tensor.dim() < 5]
            wrong += [
                f"{type(state).__name__}: numbers that are none"
                for tensor in newest
                if not bool(tensor.isfinite().all())
            ]
        return wrong

    def _states(self) -> Iterator[Any]:
        for module in (self.mimi, self._generation, self.lm):
            for name, state in module.get_streaming_state().items():
                if module is self._generation and name:
                    continue
                yield state


def _first(prompt: Prompt) -> int:
    """The frame that its tokens begin with."""
    return 0 if prompt.embedded is None else len(prompt.embedded) - 1


@contextmanager
def _alone(module: Any) -> Iterator[None]:
    """Without the state of all rows, which comes back: one sequence may stream meanwhile."""
    kept = module.get_streaming_state()
    module.set_streaming_state(dict.fromkeys(kept))
    try:
        yield
    finally:
        module.set_streaming_state(kept)


def _language_model(weights: Weights, dtype: torch.dtype, device: torch.device) -> Any:
    """With what PersonaPlex has more than is run left out: its second half of the network over the codebooks says
    what the caller said, which is known, and nothing that is kept depends on it."""
    from moshi.models import loaders

    if weights.kind != PERSONAPLEX:
        return loaders.get_moshi_lm(weights.lm, dict(weights.lm_config), device=device, dtype=dtype)
    from safetensors.torch import load_file

    lm = loaders.get_moshi_lm(None, dict(weights.lm_config), device="meta", dtype=dtype)
    expected = lm.state_dict()
    packed = {
        f"depformer.layers.{layer}.self_attn.{theirs}": sum(
            len(value)
            for name, value in expected.items()
            if name.startswith(f"depformer.layers.{layer}.self_attn.{ours}.")
        )
        for layer in range(len(lm.depformer.layers))
        for ours, theirs in (("in_projs", "in_proj_weight"), ("out_projs", "out_proj.weight"))
    }
    loaded = {}
    for name, value in load_file(weights.lm, device=str(device)).items():
        if name in packed:
            loaded[name] = value[: packed[name]].to(dtype)
        elif name in expected or not name.startswith(("depformer", "linears")):
            loaded[name] = value.to(dtype)
    lm.load_state_dict(loaded, assign=True)
    return lm.eval()


def _tensors(state: Any) -> Iterator[Tensor]:
    """Of one layer's state, those with a row a call."""
    ring = getattr(state, "kv_cache", None)
    if ring is not None:
        yield ring.cache
    for name in ("previous", "partial"):
        if isinstance(kept := getattr(state, name, None), Tensor):
            yield kept


def dtype_of(products: str, device: torch.device) -> torch.dtype:
    """As in `ModelServerConfig.products`: auto is what the weights come in on a GPU, and float32 on a CPU."""
    if products == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[products]


def silence(rows: int) -> PCM:
    """int16 [R, 1920] for rows that do not take part."""
    return np.zeros((rows, FRAME_SAMPLES), np.int16)
