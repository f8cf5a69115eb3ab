"""New positions of some calls into their pages, and attention of these positions over what each may see.

    score[t, s] = (q[t] . k[s]) / D + bias[t, t - s]        bias[t, e] = sum over j of rho[t, j] * profiles[j, e]
                                                            for e < extent, else 0
    seen        = the newest `visible` positions, t itself included, and the first ones of the call

Grouped heads; no rotary position. Positions of a call lie in a ring of pages, the first ones in pages of their
own as well (`pages.py`). It is what stands behind the projections in `model_server/model/attention.py`. Libraries
have paged attention with a window, and none with this bias; what they call sinks is a learned logit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.append_attend import reference
from turn_kernels.append_attend.pages import Pages, Reach
from turn_kernels.forms import Form, expect, form_for

__all__ = ["Pages", "Reach", "append_attend"]

DTYPES = (torch.float32, torch.bfloat16)


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
    form: Form | None = None,
) -> Tensor:
    """T positions of B calls, of which `counts` (int32 [B], 0 .. T) are there, to rows [B, T, H, D]; others are 0.

    `before`, int32 [B]: positions that each call had. `table`, int32 [B, M]: its pages, those of the first
    positions, then the ring; no page is in two calls of one pass. Keys and values are written into `pages`.
    `ValueError` for what does not fit.
    """
    _check(q_BTHD, k_BTGD, v_BTGD, rho_BTHr, profiles_rE, pages, reach)
    batch, longest = q_BTHD.shape[:2]
    expect(table_BM, "table", (batch, reach.pages), torch.int32)
    for name, numbers in (("before", before_B), ("counts", counts_B)):
        expect(numbers, name, (batch,), torch.int32)
    if longest > reach.most_at_once:
        raise ValueError(f"{longest} positions at once: this ring has room for {reach.most_at_once}")
    form = form or form_for(q_BTHD.device)
    arguments = (
        *(q_BTHD, k_BTGD, v_BTGD, rho_BTHr, profiles_rE),
        *(pages, table_BM, before_B, counts_B, reach),
    )
    if form is Form.REFERENCE:
        return reference.append_attend(*arguments)
    from turn_kernels.append_attend import triton_form

    return triton_form.append_attend(*arguments)


def _check(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    rho_BTHr: Tensor,
    profiles_rE: Tensor,
    pages: Pages,
    reach: Reach,
) -> None:
    dtype = pages.keys.dtype
    if dtype not in DTYPES:
        raise ValueError(f"pages are {dtype}: expected one of {DTYPES}")
    expect(q_BTHD, "q", (None, None, None, pages.width), dtype)
    batch, longest, heads, _ = q_BTHD.shape
    if heads % pages.heads:
        raise ValueError(f"{heads} query heads: expected a multiple of the {pages.heads} KV heads")
    for name, rows in (("k", k_BTGD), ("v", v_BTGD)):
        expect(rows, name, (batch, longest, pages.heads, pages.width), dtype)
    expect(rho_BTHr, "rho", (batch, longest, heads, len(profiles_rE)), dtype)
    expect(profiles_rE, "profiles", (None, None), dtype)
    expect(pages.values, "values", tuple(pages.keys.shape), dtype)
    expect(pages.keys, "keys", (None, pages.heads, reach.page, pages.width), dtype)
    if profiles_rE.shape[1] > reach.visible:
        raise ValueError(
            f"profiles of {profiles_rE.shape[1]} distances: expected at most {reach.visible}, the visible ones"
        )
