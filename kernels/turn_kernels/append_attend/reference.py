"""Append and attend in plain torch, a position at a time; sums in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.append_attend.pages import Pages, Reach


def append_attend(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    rho_BTHr: Tensor,
    profiles_rE: Tensor,
    pages: Pages,
    table_BM: Tensor,
    before_B: Tensor,
    counts_B: Tensor,
    reach: Reach,
) -> Tensor:
    """As `turn_kernels.append_attend.append_attend`."""
    out = torch.zeros_like(q_BTHD)
    profiles = profiles_rE.float()
    for b, (before, count) in enumerate(zip(before_B.tolist(), counts_B.tolist(), strict=True)):
        table = table_BM[b].tolist()
        for i in range(count):
            for page, offset in _places(before + i, table, reach):
                pages.keys[page, :, offset], pages.values[page, :, offset] = k_BTGD[b, i], v_BTGD[b, i]
        for i in range(count):
            out[b, i] = _attended(q_BTHD[b, i], rho_BTHr[b, i], profiles, pages, table, before + i, reach)
    return out


def _places(position: int, table: list[int], reach: Reach) -> list[tuple[int, int]]:
    """Page and place within it: in the ring, and among the first."""
    block, offset = divmod(position, reach.page)
    places = [(table[reach.first_pages + block % reach.ring], offset)]
    return [*places, (table[block], offset)] if position < reach.first else places


def _attended(
    q_HD: Tensor, rho_Hr: Tensor, profiles_rE: Tensor, pages: Pages, table: list[int], t: int, reach: Reach
) -> Tensor:
    """[H, D]."""
    oldest = max(0, t - reach.visible + 1)
    places = [_places(s, table, reach)[-1] for s in range(min(reach.first, oldest))]
    places += [_places(s, table, reach)[0] for s in range(oldest, t + 1)]
    page, offset = torch.tensor(places, device=q_HD.device).unbind(1)
    each = len(q_HD) // pages.heads
    keys = pages.keys[page, :, offset].float().repeat_interleave(each, 1)  # [S, H, D]
    values = pages.values[page, :, offset].float().repeat_interleave(each, 1)
    scores = torch.einsum("hd,shd->hs", q_HD.float(), keys) / q_HD.shape[1]
    near = min(profiles_rE.shape[1], t - oldest + 1)  # distances 0 .. near - 1, the last of the keys
    scores[:, len(places) - near :] += (rho_Hr.float() @ profiles_rE[:, :near]).flip(1)
    return torch.einsum("hs,shd->hd", scores.softmax(1), values).to(q_HD.dtype)
