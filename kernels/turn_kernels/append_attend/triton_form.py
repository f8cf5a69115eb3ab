"""Append and attend in Triton, two launches: rows into pages, then a program for some queries of a KV head.

Queries of one KV head, of several positions and heads, are rows of one product with a page of keys. The bias of a
page is a product too, by distance: rho times the profiles' columns that the page can need; each row then takes its
columns from it, moved by its own position. Softmax is kept running from page to page.

Rows of a program: row r is position r / each, query head r mod each of the KV head's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from turn_kernels.append_attend.pages import Pages, Reach
from turn_kernels.builds import Build
from turn_kernels.forms import interpreted
from turn_kernels.products import multiplied
from turn_kernels.rounding import rounded

_ROWS = 16
_LEAST = 16
"""Of the inner size of a product."""


@triton.jit
def append_kernel(
    k,
    v,
    keys,
    values,
    table,
    before,
    counts,
    T,
    G: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    FIRST: tl.constexpr,
    FIRST_PAGES: tl.constexpr,
    RING: tl.constexpr,
    BD: tl.constexpr,
):
    call = tl.program_id(0)
    i = tl.program_id(1)
    head = tl.program_id(2)
    if i < tl.load(counts + call):
        position = tl.load(before + call) + i
        d = tl.arange(0, BD)
        row = (((call * T + i) * G + head).to(tl.int64)) * D + d
        new_key = tl.load(k + row, mask=d < D)
        new_value = tl.load(v + row, mask=d < D)
        block = position // PAGE
        pages = table + call * (FIRST_PAGES + RING)
        page = tl.load(pages + FIRST_PAGES + block % RING).to(tl.int64)
        at = ((page * G + head) * PAGE + position % PAGE) * D + d
        tl.store(keys + at, new_key, mask=d < D)
        tl.store(values + at, new_value, mask=d < D)
        if position < FIRST:
            page = tl.load(pages + block).to(tl.int64)
            at = ((page * G + head) * PAGE + position % PAGE) * D + d
            tl.store(keys + at, new_key, mask=d < D)
            tl.store(values + at, new_value, mask=d < D)


@triton.jit
def _bias(
    rho,
    profiles,
    newest,
    positions,
    start,
    PAGE: tl.constexpr,
    EXTENT: tl.constexpr,
    RANK: tl.constexpr,
    BR: tl.constexpr,
    COLUMNS: tl.constexpr,
    CORES: tl.constexpr,
):
    """float32 [ROWS, PAGE]: of keys at positions start .. start + PAGE - 1, seen from each row's position."""
    j = tl.arange(0, BR)
    distance = (
        newest - start - tl.arange(0, COLUMNS)
    )  # of the newest row; a row that is n older begins n later
    inside = (j < RANK)[:, None] & (distance >= 0)[None, :] & (distance < EXTENT)[None, :]
    columns = tl.load(profiles + j[:, None] * EXTENT + distance[None, :], mask=inside, other=0.0)
    nothing = tl.zeros((rho.shape[0], COLUMNS), tl.float32)
    by_distance = multiplied(rho, columns, nothing, CORES)
    moved = tl.maximum(newest - positions, 0)[:, None] + tl.arange(0, PAGE)[None, :]
    return tl.gather(by_distance, tl.minimum(moved, COLUMNS - 1), 1)


@triton.jit
def _added(scores, seen, v, most, total, out, CORES: tl.constexpr):
    """One page more in a running softmax."""
    scores = tl.where(seen, scores, float("-inf"))
    now = tl.maximum(most, tl.max(scores, axis=1))
    base = tl.where(now == float("-inf"), 0.0, now)
    shares = tl.exp(scores - base[:, None])
    kept = tl.exp(most - base)
    total = total * kept + tl.sum(shares, axis=1)
    return now, total, multiplied(shares, v, out * kept[:, None], CORES)


@triton.jit
def attend_kernel(
    q,
    rho,
    profiles,
    keys,
    values,
    table,
    before,
    counts,
    out,
    T,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    VISIBLE: tl.constexpr,
    FIRST: tl.constexpr,
    FIRST_PAGES: tl.constexpr,
    RING: tl.constexpr,
    EXTENT: tl.constexpr,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    BD: tl.constexpr,
    BR: tl.constexpr,
    COLUMNS: tl.constexpr,
    CORES: tl.constexpr,
):
    call = tl.program_id(0)
    group = tl.program_id(1)
    each: tl.constexpr = H // G
    r = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    i = r // each
    head = group * each + r % each
    had = tl.load(before + call)
    count = tl.load(counts + call)
    here = i < count
    positions = had + i
    newest = had + tl.minimum((tl.program_id(2) * ROWS + ROWS - 1) // each, count - 1)
    oldest = tl.maximum(had + tl.program_id(2) * ROWS // each - VISIBLE + 1, 0)
    d = tl.arange(0, BD)
    j = tl.arange(0, BR)
    row = ((call * T + i) * H + head).to(tl.int64)
    query = tl.load(q + row[:, None] * D + d[None, :], mask=here[:, None] & (d < D)[None, :], other=0.0)
    mix = tl.load(rho + row[:, None] * RANK + j[None, :], mask=here[:, None] & (j < RANK)[None, :], other=0.0)
    query, mix = query.to(tl.float32), mix.to(tl.float32)
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, BD), tl.float32)
    nothing = tl.zeros((ROWS, PAGE), tl.float32)
    pages = table + call * (FIRST_PAGES + RING)
    offset = tl.arange(0, PAGE)
    any_here = tl.program_id(2) * ROWS // each < count
    forgets = any_here & (newest >= VISIBLE)
    for block in range(0, tl.where(forgets, FIRST_PAGES, 0)):
        s = block * PAGE + offset
        kept = (s < FIRST) & (s <= newest - VISIBLE)
        page = (tl.load(pages + block).to(tl.int64) * G + group) * PAGE
        at = (page + offset)[:, None] * D + d[None, :]
        inside = kept[:, None] & (d < D)[None, :]
        key = tl.load(
            keys + (page + offset)[None, :] * D + d[:, None], mask=kept[None, :] & (d < D)[:, None], other=0.0
        )
        scores = multiplied(query, key, nothing, CORES) / D
        seen = here[:, None] & kept[None, :] & (positions[:, None] - s[None, :] >= VISIBLE)
        value = tl.load(values + at, mask=inside, other=0.0)
        most, total, sums = _added(scores, seen, value, most, total, sums, CORES)
    last = tl.where(any_here, newest // PAGE + 1, 0)
    for block in range(oldest // PAGE, last):
        start = block * PAGE
        s = start + offset
        kept = (s >= oldest) & (s <= newest)
        page = (tl.load(pages + FIRST_PAGES + block % RING).to(tl.int64) * G + group) * PAGE
        at = (page + offset)[:, None] * D + d[None, :]
        inside = kept[:, None] & (d < D)[None, :]
        key = tl.load(
            keys + (page + offset)[None, :] * D + d[:, None], mask=kept[None, :] & (d < D)[:, None], other=0.0
        )
        scores = multiplied(query, key, nothing, CORES) / D
        if newest - start - PAGE - ROWS // each < EXTENT:  # else beyond all profiles
            scores += _bias(mix, profiles, newest, positions, start, PAGE, EXTENT, RANK, BR, COLUMNS, CORES)
        distance = positions[:, None] - s[None, :]
        seen = here[:, None] & kept[None, :] & (distance >= 0) & (distance < VISIBLE)
        value = tl.load(values + at, mask=inside, other=0.0)
        most, total, sums = _added(scores, seen, value, most, total, sums, CORES)
    rows = tl.where(here[:, None], sums / tl.where(here, total, 1.0)[:, None], 0.0)
    to = out + row[:, None] * D + d[None, :]
    tl.store(to, rounded(rows, out.dtype.element_ty), mask=(i < T)[:, None] & (d < D)[None, :])


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
    """As `turn_kernels.append_attend.append_attend`, which has checked the arguments."""
    batch, longest, heads, width = q_BTHD.shape
    out = torch.empty_like(q_BTHD)
    if not batch or not longest:
        return out
    each = heads // pages.heads
    sizes = {
        "G": pages.heads,
        "D": width,
        "PAGE": reach.page,
        "FIRST": reach.first,
        "FIRST_PAGES": reach.first_pages,
        "RING": reach.ring,
        "BD": max(_LEAST, triton.next_power_of_2(width)),
    }
    append_kernel[(batch, longest, pages.heads)](
        k_BTGD, v_BTGD, pages.keys, pages.values, table_BM, before_B, counts_B, longest, **sizes
    )
    attend_kernel[(batch, pages.heads, triton.cdiv(longest * each, _ROWS))](
        q_BTHD,
        rho_BTHr,
        profiles_rE,
        pages.keys,
        pages.values,
        table_BM,
        before_B,
        counts_B,
        out,
        longest,
        H=heads,
        VISIBLE=reach.visible,
        EXTENT=profiles_rE.shape[1],
        RANK=len(profiles_rE),
        ROWS=_ROWS,
        BR=max(_LEAST, triton.next_power_of_2(len(profiles_rE))),
        COLUMNS=columns_of(reach.page, each),
        CORES=q_BTHD.dtype == torch.bfloat16 and not interpreted(),
        **sizes,
    )
    return out


def columns_of(page: int, each: int) -> int:
    """Distances that the rows of a program can have to the keys of one page."""
    return triton.next_power_of_2(page + (_ROWS - 1) // each + 1)


_SMALL_30B = {"G": 4, "D": 128, "PAGE": 64, "BD": 128}
_GLOBAL = {**_SMALL_30B, "FIRST": 1024, "FIRST_PAGES": 16, "RING": 513}
_TABLES = {**dict.fromkeys(("table", "before", "counts"), "*i32"), "T": "i32"}
_ATTEND = {**dict.fromkeys(("q", "rho", "profiles", "keys", "values", "out"), "*bf16"), **_TABLES}
_SHAPE = {"H": 32, "RANK": 16, "ROWS": _ROWS, "BR": 16, "COLUMNS": columns_of(64, 8), "CORES": True}
BUILDS = (
    Build(
        "append, global layer of small-30b-a3b",
        append_kernel,
        {**dict.fromkeys(("k", "v", "keys", "values"), "*bf16"), **_TABLES},
        _GLOBAL,
    ),
    Build(
        "attend, global layer of small-30b-a3b",
        attend_kernel,
        _ATTEND,
        {**_GLOBAL, **_SHAPE, "VISIBLE": 32_768, "EXTENT": 1024},
        instructions=("mma.sync",),
    ),
)
