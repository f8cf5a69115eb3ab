"""The pass of sound: hidden rows of the `speak` positions to 200 ms of samples, by flow head and vocoder.

B   rows of the bucket        N   B * 4 `speak` positions        X   4 sub-frames x 82 features
"""

from __future__ import annotations

import torch
from torch import Tensor

from model_server.model.flow_head import FlowHead
from model_server.model.micro_turn import SUBFRAMES
from model_server.model.vocoder import FEATURES, Vocoder, VocoderState, is_heard
from turn_kernels.flow_head_step import flow_head_step, weights_of
from turn_kernels.forms import Form
from turn_kernels.overlap_add import overlap_add


class DeviceSound:
    """Flow head in `steps` Euler steps, and a voice for each row of the state."""

    @torch.no_grad()
    def __init__(
        self, head: FlowHead, rows: int, steps: int, device: torch.device, form: Form | None
    ) -> None:
        """`ValueError` for less than one step."""
        if steps < 1:
            raise ValueError(f"steps = {steps}: expected at least 1")
        self._form, self._head, self._steps = form, head, steps
        self._weights = weights_of(dict(head.named_parameters()))
        self._times = [head.time_row(step / steps).contiguous() for step in range(steps)]
        self._vocoder = Vocoder().to(device)
        self.voice = _on(device, self._vocoder.start(rows))
        self._fresh = _on(device, self._vocoder.start(1))

    def open(self, row: int) -> None:
        """A call begins in this row."""
        for name in self.voice.__slots__:
            getattr(self.voice, name)[row] = getattr(self._fresh, name)[0]

    def copy(self, row: int, to: int) -> None:
        """The voice of `to` becomes that of `row`."""
        for name in self.voice.__slots__:
            kept = getattr(self.voice, name)
            kept[to] = kept[row]

    def __call__(
        self, hidden_B4d: Tensor, noise_NX: Tensor, pcm_BS: Tensor, rows_B: Tensor, there_B: Tensor
    ) -> None:
        """Into `pcm`, int16 [B, 3200]; the voices of these rows move on where they are there and not silent."""
        head, batch = self._head, len(hidden_B4d)
        condition = head.condition(hidden_B4d.flatten(0, 1).float())
        x = noise_NX
        for step, time in enumerate(self._times):
            x = flow_head_step(x, condition, time, self._weights, self._steps - step, self._form)
        vectors = x.unflatten(1, (SUBFRAMES, FEATURES)) * head.deviation + head.mean
        features = vectors.unflatten(0, (batch, -1)).flatten(1, 2)
        before = VocoderState(
            *(getattr(self.voice, name).index_select(0, rows_B) for name in self.voice.__slots__)
        )
        moves_B = there_B & is_heard(features, before.tail)
        pieces, after = self._vocoder.pieces(features, before)
        _, after.tail = overlap_add(pieces.contiguous(), before.tail, pcm_BS, self._form)
        for name in self.voice.__slots__:
            was, is_now = getattr(before, name), getattr(after, name)
            kept = torch.where(moves_B.view(-1, *(1,) * (was.ndim - 1)), is_now, was)
            getattr(self.voice, name).index_copy_(0, rows_B, kept)


def _on(device: torch.device, state: VocoderState) -> VocoderState:
    return VocoderState(*(getattr(state, name).to(device) for name in state.__slots__))
