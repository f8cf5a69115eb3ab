"""One pass: which rows of the state it takes, and how many new positions each of them gets. Tensors on the device
alone: a graph that was captured once is right for other rows, other positions, and rows that wait.

    B T   rows of the bucket, positions        M   pages of a call
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.model.device.state import DeviceState


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Of B rows, some of which may be nobody's, or wait."""

    rows_B: Tensor
    """int64, of the state."""
    before_B: Tensor
    """int32: positions that each call has without those that are taken back."""
    counts_B: Tensor
    """int32: new positions, 0 .. T; 0 leaves a row as it is."""
    again_B: Tensor | None
    """bool: rows whose last `speak` positions are taken back; None: of nobody."""
    here_BT1: Tensor
    """bool: positions that are there."""
    tables: tuple[Tensor, Tensor]
    """int32 [B, M], of sliding and of global layers."""
    tau_BT11: Tensor | None
    """float32, of global layers; None: always 1."""


def make_pass(
    state: DeviceState, rows_B: Tensor, counts_B: Tensor, longest: int, taken_back_B: Tensor | None = None
) -> Pass:
    """`taken_back`: int32 [B], positions of each that go first; None: none."""
    before = state.positions.index_select(0, rows_B)
    if taken_back_B is not None:
        before = before - taken_back_B
    t = torch.arange(longest, dtype=torch.int32, device=rows_B.device)
    config, tau = state.config, None
    if config.log_floor is not None:
        reach = (before[:, None] + t + 1).float() / config.log_floor
        tau = (1 + config.log_alpha * reach.clamp(min=1).log())[:, :, None, None]
    sliding, whole = (table.index_select(0, rows_B) for table in state.tables)
    again = None if taken_back_B is None else taken_back_B > 0
    here = (t < counts_B[:, None])[:, :, None]
    return Pass(rows_B, before, counts_B, again, here, (sliding, whole), tau)


def finish_pass(state: DeviceState, now: Pass) -> None:
    """After all layers: calls have come further."""
    state.positions.index_copy_(0, now.rows_B, now.before_B + now.counts_B)
