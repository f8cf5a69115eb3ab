"""Sound to dMel: 50 ms frames of 80 channels, each one of 16 levels; streamed, with what lies before carried along.

    power   = |FFT(window * (samples before the frame, samples of it))|^2
    level   = borders below log10(filters @ sqrt(power)), clipped

The transform itself is the library's (cuFFT on a GPU); what is ours is before and behind it. Levels are those of
`model_server/model/dmel.py`; between forms one may differ where a channel lies on a border, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.dmel import reference
from turn_kernels.dmel.tables import DmelTables
from turn_kernels.forms import Form, expect, form_for

__all__ = ["DmelTables", "dmel"]


def dmel(
    pcm_BS: Tensor, carried_BC: Tensor, tables: DmelTables, form: Form | None = None
) -> tuple[Tensor, Tensor]:
    """int16 [B, n * hop] after int16 [B, W - hop] to levels, uint8 [B, n, M], and what the next call carries.

    `carried` is the end of the samples so far, silence before a call begins. `ValueError` for what does not fit.
    """
    expect(pcm_BS, "pcm", (None, None), torch.int16)
    expect(carried_BC, "carried", (len(pcm_BS), tables.samples - tables.hop), torch.int16)
    if not pcm_BS.shape[1] or pcm_BS.shape[1] % tables.hop:
        raise ValueError(f"pcm has {pcm_BS.shape[1]} samples: expected a multiple of the hop {tables.hop}")
    if not len(pcm_BS):
        frames = pcm_BS.shape[1] // tables.hop
        return pcm_BS.new_empty(0, frames, tables.channels, dtype=torch.uint8), carried_BC
    form = form or form_for(pcm_BS.device)
    if form is Form.REFERENCE:
        return reference.dmel(pcm_BS, carried_BC, tables)
    from turn_kernels.dmel import triton_form

    return triton_form.dmel(pcm_BS, carried_BC, tables)
