"""Overlapping pieces of sound to samples, with what hangs over carried to the next turn.

    sound = tail + every piece at its hop, the oldest first         the first samples are given as int16,
                                                                    the rest is the next tail

Bit for bit the same in all forms: the order of the additions is part of the op.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.forms import Form, expect, form_for
from turn_kernels.overlap_add import reference


def overlap_add(
    pieces_BSN: Tensor, tail_BH: Tensor, out_BP: Tensor | None = None, form: Form | None = None
) -> tuple[Tensor, Tensor]:
    """float32 pieces [B, S, N] and tail [B, N - hop] to int16 [B, S * hop] and the next tail.

    A piece begins a hop after the one before; the tail tells the hop, of which N is a multiple. `out` may be
    rows of a larger buffer that go to the workers. `ValueError` for what does not fit.
    """
    calls, subframes, samples = pieces_BSN.shape
    hop = samples - tail_BH.shape[1]
    if hop < 1 or samples % hop:
        raise ValueError(
            f"pieces of {samples}, a tail of {tail_BH.shape[1]}: expected a multiple of the hop {hop}"
        )
    expect(pieces_BSN, "pieces", (None, None, None), torch.float32)
    expect(tail_BH, "tail", (calls, samples - hop), torch.float32)
    if out_BP is None:
        out_BP = torch.empty(calls, subframes * hop, dtype=torch.int16, device=pieces_BSN.device)
    if out_BP.dtype != torch.int16 or out_BP.shape != (calls, subframes * hop) or out_BP.stride(1) != 1:
        raise ValueError(
            f"out is {out_BP.dtype} {tuple(out_BP.shape)}: expected int16 {calls, subframes * hop}"
        )
    form = form or form_for(pieces_BSN.device)
    if form is Form.REFERENCE:
        return reference.overlap_add(pieces_BSN, tail_BH, out_BP)
    from turn_kernels.overlap_add import triton_form

    return triton_form.overlap_add(pieces_BSN, tail_BH, out_BP)
