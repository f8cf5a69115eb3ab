"""The fused collective in Triton: one kernel, whose two ways of adding are a switch at compile time.

A block copies its rows into its region, arrives, waits until that block of every rank has arrived, adds, and goes
on with residual and norm. Blocks of one rank do not know each other; row i belongs to block i mod blocks, always.

The multimem branch is inline PTX, which the interpreter does not have: it is tested by compiling it. ptxas is said
to ignore a predicate on a multimem instruction, so masked lanes branch around it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from turn_kernels.all_reduce_norm.team import Team
from turn_kernels.builds import Build
from turn_kernels.rounding import as_stored, rounded


@triton.jit
def _load_reduce(address, active):
    """16 bytes of bfloat16 at each multicast address, added over ranks in float32: four words, 0 where inactive."""
    return tl.inline_asm_elementwise(
        """{
        .reg .pred inactive;
        mov.u32 $0, 0; mov.u32 $1, 0; mov.u32 $2, 0; mov.u32 $3, 0;
        setp.eq.s32 inactive, $5, 0;
        @inactive bra end;
        multimem.ld_reduce.relaxed.sys.global.add.acc::f32.v4.bf16x2 {$0, $1, $2, $3}, [$4];
        end:
        }""",
        "=&r,=&r,=&r,=&r,l,r",
        args=[address, active],
        dtype=(tl.uint32, tl.uint32, tl.uint32, tl.uint32),
        is_pure=False,
        pack=1,
    )


@triton.jit
def _arrive_everywhere(address):
    """Thread 0 adds 1 to the cell of every rank, after all that it has seen written."""
    return tl.inline_asm_elementwise(
        """{
        .reg .pred other;
        .reg .u32 thread;
        mov.u32 $0, 0;
        mov.u32 thread, %tid.x;
        setp.ne.u32 other, thread, 0;
        @other bra end;
        multimem.red.release.sys.global.add.u64 [$1], 1;
        end:
        }""",
        "=&r,l",
        args=[address],
        dtype=tl.uint32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def unpacked(a, b, c, d, BLOCK: tl.constexpr):
    """Four tensors of words, two bfloat16 each, to float32 [BLOCK] in the order of memory."""
    words = tl.join(tl.join(a, c), tl.join(b, d))  # [units, 2, 2]: a b c d
    low = (words << 16).to(tl.float32, bitcast=True)
    high = (words & 0xFFFF0000).to(tl.float32, bitcast=True)
    return tl.reshape(tl.join(low, high), (BLOCK,))


@triton.jit
def _wait_for_peers(bases, mine, at, block, rank, epoch, W: tl.constexpr):
    """Tell every rank, then wait for every rank."""
    ranks = tl.arange(0, W)
    theirs = (tl.load(bases + ranks) + at).to(tl.pointer_type(tl.int64)) + block * W + rank
    ours = (mine + at).to(tl.pointer_type(tl.int64)) + block * W + ranks
    nothing = tl.zeros((W,), tl.int64)
    tl.atomic_xchg(theirs, nothing + epoch, sem="release", scope="sys")
    arrived = 0
    while arrived < W:
        seen = tl.atomic_add(ours, nothing, sem="acquire", scope="sys")
        arrived = tl.sum((seen >= epoch).to(tl.int32), axis=0)


@triton.jit
def _row_at(address):
    return tl.multiple_of(address.to(tl.pointer_type(tl.bfloat16)), 16)


@triton.jit
def _sum_of_peers(bases, offset, c, D: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr):
    """float32 [BLOCK], in the order of the ranks."""
    total = tl.zeros((BLOCK,), tl.float32)
    for peer in tl.static_range(W):
        row = _row_at(tl.load(bases + peer) + offset)
        total += tl.load(row + c, mask=c < D, other=0.0).to(tl.float32)
    return as_stored(total, tl.bfloat16)


@triton.jit
def _sum_by_switch(multicast, offset, D: tl.constexpr, BLOCK: tl.constexpr):
    """float32 [BLOCK]; the switch rounds."""
    units = tl.arange(0, BLOCK // 8)
    address = multicast + offset + units.to(tl.int64) * 16
    a, b, c, d = _load_reduce(address, (units * 8 < D).to(tl.int32))
    return unpacked(a, b, c, d, BLOCK)


@triton.jit
def all_reduce_norm_kernel(
    x,
    residual,
    weight,
    out,
    bases,
    epochs,
    multicast,
    signals_at,
    counters_at,
    half_bytes,
    N,
    eps,
    rank,
    D: tl.constexpr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    MULTIMEM: tl.constexpr,
):
    block = tl.program_id(0)
    blocks = tl.num_programs(0)
    c = tl.arange(0, BLOCK)
    epoch = tl.load(epochs + block) + 1
    mine = tl.load(bases + rank)
    half = (epoch % 2) * half_bytes
    for row in range(block, N, blocks):
        own = _row_at(mine + half + row * D * 2)
        tl.store(own + c, tl.load(x + row * D + c, mask=c < D), mask=c < D)
    tl.debug_barrier()  # all threads have written before one of them says so
    if MULTIMEM:
        # A block without rows arrives, too: its counter is compared with all calls that there were.
        _arrive_everywhere(multicast + counters_at + block * 8)
        if block < N:
            counter = (mine + counters_at).to(tl.pointer_type(tl.int64)) + block
            while tl.atomic_add(counter, 0, sem="acquire", scope="sys") < epoch * W:
                pass
    else:
        if block < N:
            _wait_for_peers(bases, mine, signals_at, block, rank, epoch, W)
    gain = tl.load(weight + c, mask=c < D, other=0.0).to(tl.float32)
    for row in range(block, N, blocks):
        offset = half + row * D * 2
        if MULTIMEM:
            total = _sum_by_switch(multicast, offset, D, BLOCK)
        else:
            total = _sum_of_peers(bases, offset, c, D, W, BLOCK)
        old = tl.load(residual + row * D + c, mask=c < D, other=0.0).to(tl.float32)
        new = as_stored(old + total, tl.bfloat16)
        tl.store(residual + row * D + c, rounded(new, tl.bfloat16), mask=c < D)
        squares = tl.sum(tl.where(c < D, new * new, 0.0), axis=0)
        normed = as_stored(new / tl.sqrt(squares / D + eps), tl.bfloat16)
        tl.store(out + row * D + c, rounded(normed * gain, tl.bfloat16), mask=c < D)
    tl.store(epochs + block, epoch)


def all_reduce_norm(
    x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, eps: float, team: Team, multimem: bool
) -> Tensor:
    """As `turn_kernels.all_reduce_norm.all_reduce_norm`, which has checked the arguments."""
    layout = team.layout
    out = torch.empty_like(x_ND)
    all_reduce_norm_kernel[(layout.blocks,)](
        x_ND,
        residual_ND,
        weight_D,
        out,
        team.bases,
        team.epochs,
        team.multicast,
        layout.signals_at,
        layout.counters_at,
        layout.signals_at // 2,
        len(x_ND),
        eps,
        team.rank,
        D=layout.width,
        W=layout.world,
        BLOCK=triton.next_power_of_2(layout.width),
        MULTIMEM=multimem,
        num_warps=warps_for(layout.width),
    )
    return out


def warps_for(width: int) -> int:
    """16 values of a row a thread, 4 to 16 warps."""
    return min(16, max(4, triton.next_power_of_2(width) // 512))


_ARGUMENTS = {
    **dict.fromkeys(("x", "residual", "weight", "out"), "*bf16"),
    **dict.fromkeys(("bases", "epochs"), "*i64"),
    **dict.fromkeys(("multicast", "signals_at", "counters_at", "half_bytes"), "i64"),
    **dict.fromkeys(("N", "rank"), "i32"),
    "eps": "fp32",
}
BUILDS = (
    Build(
        "all_reduce_norm peer, 8 ranks",
        all_reduce_norm_kernel,
        _ARGUMENTS,
        {"D": 4096, "W": 8, "BLOCK": 4096, "MULTIMEM": False},
        warps=warps_for(4096),
        instructions=("atom.global.sys.release.exch.b64", "atom.global.sys.acquire.add.u64", "ld.global.v4"),
    ),
    Build(
        "all_reduce_norm multimem, 8 ranks",
        all_reduce_norm_kernel,
        _ARGUMENTS,
        {"D": 4096, "W": 8, "BLOCK": 4096, "MULTIMEM": True},
        warps=warps_for(4096),
        instructions=(
            "multimem.ld_reduce.relaxed.sys.global.add.acc::f32.v4.bf16x2",
            "multimem.red.release.sys.global.add.u64",
            "ld.global.sys.acquire.b64",  # what becomes of adding nothing
        ),
    ),
    Build(
        "all_reduce_norm multimem, width not a power of two",
        all_reduce_norm_kernel,
        _ARGUMENTS,
        {"D": 192, "W": 2, "BLOCK": 256, "MULTIMEM": True},
        warps=warps_for(256),
        instructions=("multimem.ld_reduce.relaxed.sys.global.add.acc::f32.v4.bf16x2",),
    ),
)
