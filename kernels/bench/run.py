"""Kernels against the bandwidth of the device and against what torch itself has for the same thing.

    python kernels/bench/run.py          all of it: a row per op and shape, then one JSON line
    python kernels/bench/run.py --cpu    what needs no GPU alone

Without a GPU the references run on one CPU core, the collectives between two processes, and the rest is refused:
it says so, and the exit status is 2, unless it was told `--cpu`.

The roofline of a row is the time in which the device copies the bytes that the op must move at least: each operand
once; of a collective, what one rank writes and reads. How fast it copies is measured first. Between two runs on a
GPU the L2 cache is filled with something else. Collectives between GPUs need two of them at least.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from turn_kernels.all_reduce import Collective, Hardware, Op, Way, possible
from turn_kernels.all_reduce.reference import ByGroup
from turn_kernels.all_reduce.shared_memory import SharedMemory, region_bytes
from turn_kernels.all_reduce.symmetric import Symmetric, hardware_of
from turn_kernels.append_attend import Pages, Reach, append_attend
from turn_kernels.dmel import DmelTables, dmel
from turn_kernels.flow_head_step import FlowWeights, flow_head_step
from turn_kernels.forms import Form, require_triton
from turn_kernels.mixture import MixtureWeights, mixture
from turn_kernels.overlap_add import overlap_add

COPY_BYTES = {"cpu": 1 << 26, "cuda": 1 << 28}
FLUSH_BYTES = 1 << 28
"""More than any L2 cache has."""
RUNS = 20
COLLECTIVE_BYTES = (8 << 10, 120 << 10, 480 << 10, 4 << 20)
"""From one call's position to a prefill of a full batch."""
COLLECTIVE_RUNS = 100


@dataclass(frozen=True, slots=True)
class Case:
    """One op at one shape."""

    op: str
    shape: str
    bytes_moved: int
    run: Callable[[Form], object]
    library: Callable[[], object] | None = None
    """What torch has for it; None: nothing but the reference."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kernels.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="measure what needs no GPU, on CPU cores")
    parser.add_argument("--rank", nargs=3, metavar=("RANK", "RANKS", "FOLDER"), help=argparse.SUPPRESS)
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    missing = "" if told.cpu else what_is_missing()
    on_cpu = bool(told.cpu or missing)
    if told.rank:
        rank, ranks, folder = told.rank
        return run_rank(int(rank), int(ranks), Path(folder), on_cpu)
    if missing:
        print(f"kernels.bench: {missing}", file=sys.stderr)
    device = torch.device("cpu" if on_cpu else "cuda")
    copy_gb_s = copied_gb_s(device)
    name = "CPU, one core" if on_cpu else torch.cuda.get_device_name(device)
    print(f"{name}: copies {copy_gb_s:.1f} GB/s; torch {torch.__version__}")
    print(f"{'op':16} {'shape':40} {'form':13} {'us':>9} {'GB/s':>8} {'of copy':>8} {'torch us':>9}")
    rows = [row for case in cases(device) for row in measured(case, device, copy_gb_s)]
    rows += collectives(on_cpu, copy_gb_s)
    print(json.dumps({"device": name, "copy_gb_s": round(copy_gb_s, 1), "missing": missing, "rows": rows}))
    return 2 if missing else 0


def what_is_missing() -> str:
    """Why nothing can be measured here, and what to do; empty when it can."""
    if not torch.cuda.is_available():
        return (
            "no CUDA device: the fast forms are not measured; they need a GPU and the CUDA build of torch 2.13.0. "
            "What needs none follows; to ask for no more, add --cpu"
        )
    try:
        require_triton()
    except RuntimeError as error:
        return str(error)
    return ""


def measured(case: Case, device: torch.device, copy_gb_s: float) -> Iterator[dict[str, object]]:
    """Rows of the table, printed as they come."""
    library_us = None if case.library is None else micros(case.library, device)
    forms = (Form.REFERENCE,) if device.type == "cpu" else (Form.REFERENCE, Form.TRITON)
    for form in forms:

        def run(form: Form = form) -> object:
            return case.run(form)

        taken_us = micros(run, device)
        gb_s = case.bytes_moved / taken_us / 1e3
        yield row_of(case.op, case.shape, str(form), taken_us, gb_s, copy_gb_s, library_us)


def row_of(
    op: str, shape: str, form: str, us: float, gb_s: float, copy_gb_s: float, library_us: float | None
) -> dict[str, object]:
    """Of the table, printed."""
    torch_us = "-" if library_us is None else f"{library_us:.1f}"
    of_copy = round(gb_s / copy_gb_s, 4)
    print(f"{op:16} {shape:40} {form:13} {us:9.1f} {gb_s:8.2f} {of_copy:8.4f} {torch_us:>9}")
    return {
        "op": op,
        "shape": shape,
        "form": form,
        "us": round(us, 1),
        "gb_s": round(gb_s, 2),
        "of_copy": of_copy,
        "torch_us": None if library_us is None else round(library_us, 1),
    }


def micros(run: Callable[[], object], device: torch.device) -> float:
    """Median time of a call in microseconds, the caches cold on a GPU."""
    run()  # compiles
    return statistics.median(_once(run, device) for _ in range(RUNS))


def _once(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e6
    torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device).zero_()
    start_event = torch.cuda.Event(enable_timing=True)
    end_event = torch.cuda.Event(enable_timing=True)
    start_event.record()
    run()
    end_event.record()
    torch.cuda.synchronize(device)
    return float(start_event.elapsed_time(end_event) * 1e3)


def copied_gb_s(device: torch.device) -> float:
    """Bytes read and written by a large copy, per second."""
    size = COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / micros(lambda: target.copy_(source), device) / 1e3


def cases(device: torch.device) -> Iterator[Case]:
    """Sizes of `digits` and, on a GPU, of one layer of `small-30b-a3b`."""
    for calls in (1, 16, 64):
        yield _overlap_add(calls, device)
        yield _flow_head_step(4 * calls, device)
        yield _dmel(calls, device)
    sizes = (192, 192, 8, 2, 1) if device.type == "cpu" else (2048, 768, 128, 6, 2)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for rows in (1, 8, 32, 128) if device.type == "cpu" else (1, 8, 32, 128, 512, 1024):
        yield _mixture(rows, sizes, dtype, device)
    attended = (6, 2, 32, 160) if device.type == "cpu" else (32, 4, 128, 512)
    for calls in (1, 4) if device.type == "cpu" else (1, 16, 64):
        yield _append_attend(calls, attended, dtype, device)


def _made(device: torch.device, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(device)


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _overlap_add(calls: int, device: torch.device) -> Case:
    pieces, tail = _made(device, calls, 16, 800), _made(device, calls, 600)
    out = torch.empty(calls, 3200, dtype=torch.int16, device=device)

    def by_fold() -> Tensor:
        folded: Tensor = torch.nn.functional.fold(pieces.mT, (1, 3800), (1, 800), stride=(1, 200))
        return folded

    moved = _bytes(pieces, tail, tail, out)
    return Case(
        "overlap_add",
        f"B={calls} S=16 N=800",
        moved,
        lambda form: overlap_add(pieces, tail, out, form),
        by_fold,
    )


def _flow_head_step(rows: int, device: torch.device) -> Case:
    features, width, blocks = 328, 144, 3
    shapes = (
        ((width, features), (width,)),
        ((blocks, 3 * width, width), (blocks, 3 * width)),
        ((blocks, width, width), (blocks, width)),
        ((blocks, width, width), (blocks, width)),
        ((2 * width, width), (2 * width,)),
        ((features, width), (features,)),
    )
    weights = FlowWeights(*(_made(device, *shape) for pair in shapes for shape in pair))
    x, condition, moment = _made(device, rows, features), _made(device, rows, width), _made(device, width)
    moved = _bytes(x, x, condition, moment, *(getattr(weights, name) for name in weights.__slots__))
    return Case(
        "flow_head_step",
        f"N={rows} W=144 X=328",
        moved,
        lambda form: flow_head_step(x, condition, moment, weights, 2, form),
    )


def _mixture(rows: int, sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Case:
    hidden, width, experts, chosen, shared = sizes

    def matrix(*shape: int) -> Tensor:
        return _made(device, *shape).to(dtype)

    weights = MixtureWeights(
        matrix(experts + shared, hidden),
        torch.zeros(experts, device=device),
        matrix(experts, 2 * width, hidden),
        matrix(experts, hidden, width),
        matrix(shared, 2 * width, hidden),
        matrix(shared, hidden, width),
        chosen,
        1.0,
    )
    x = matrix(rows, hidden)
    touched = experts * (1 - (1 - chosen / experts) ** rows) + shared
    moved = int(touched * 3 * width * hidden * x.element_size()) + _bytes(weights.router, x, x)
    shape = f"N={rows} d={hidden} f={width} E={experts} K={chosen} S={shared}"
    return Case("mixture", shape, moved, lambda form: mixture(x, weights, form))


def _dmel(calls: int, device: torch.device) -> Case:
    window, filters = torch.hann_window(1600, device=device), _made(device, 801, 80).abs()
    tables = DmelTables(window, filters, torch.linspace(-6, 2, 15, device=device), hop=800)
    pcm = torch.randint(-3000, 3000, (calls, 3200), dtype=torch.int16, device=device)
    carried = pcm[:, :800].contiguous()
    levels = torch.empty(calls, 4, 80, dtype=torch.uint8, device=device)

    def transform_alone() -> Tensor:
        samples = torch.cat([carried, pcm], 1).float()
        spectrum: Tensor = torch.fft.rfft(samples.unfold(1, 1600, 800) * window)
        return spectrum

    moved = _bytes(pcm, carried, carried, levels, window, filters)
    shape = f"B={calls} S=3200 (torch: the FFT alone)"
    return Case("dmel", shape, moved, lambda form: dmel(pcm, carried, tables, form), transform_alone)


def _append_attend(calls: int, sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Case:
    """A turn of 8 positions of calls whose rings are full, in a sliding layer."""
    heads, kv_heads, head_dim, visible = sizes
    page, positions, rank = 64, 8, 16
    ring = -(-(visible - 1 + positions) // page)
    reach = Reach(visible, 0, page, ring)
    pages = Pages(*(_made(device, calls * ring, kv_heads, page, head_dim).to(dtype) for _ in range(2)))
    q, rho = (_made(device, calls, positions, heads, size).to(dtype) for size in (head_dim, rank))
    k, v = (_made(device, calls, positions, kv_heads, head_dim).to(dtype) for _ in range(2))
    profiles = _made(device, rank, visible).to(dtype)
    table = torch.arange(calls * ring, dtype=torch.int32, device=device).view(calls, ring)
    before, counts = (torch.full((calls,), n, dtype=torch.int32, device=device) for n in (10_000, positions))
    whole = (calls, kv_heads, ring * page, head_dim)
    keys, values = (each.transpose(1, 2).reshape(whole) for each in (pages.keys, pages.values))
    bias = _made(device, calls, heads, positions, ring * page).to(dtype)

    def with_a_mask() -> Tensor:
        out: Tensor = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=bias, scale=1 / head_dim, enable_gqa=True
        )
        return out

    seen = calls * kv_heads * (visible + positions) * head_dim * 2 * q.element_size()
    moved = seen + _bytes(q, q, k, v, k, v, rho, profiles)
    return Case(
        "append_attend",
        f"B={calls} T={positions} H={heads}/{kv_heads} D={head_dim} W={visible}",
        moved,
        lambda form: append_attend(q, k, v, rho, profiles, pages, table, before, counts, reach, form),
        with_a_mask,
    )


# -- collectives: ranks are processes of this file


def collectives(on_cpu: bool, copy_gb_s: float) -> list[dict[str, object]]:
    """Rows of every way that the ranks have; none where there are not two of them."""
    ranks = 2 if on_cpu else torch.cuda.device_count()
    if ranks < 2:
        print("collectives: not measured, there is one GPU; they need two", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        if any(_forked(ranks, folder) if on_cpu else _started(ranks, folder)):
            raise RuntimeError("collectives: a rank failed; what it said stands above")
        found = [json.loads(line) for line in (folder / "found").read_text().splitlines()]
    rows = []
    for timed in found:
        by_way: dict[str, float] = timed["us"]
        library_us = by_way[Way.GLOO if on_cpu else Way.NCCL]
        for way, us in by_way.items():
            gb_s = timed["bytes"] * (ranks + 1) / us / 1e3  # written once, read of all
            shape = f"W={ranks} {timed['bytes']} B"
            rows.append(row_of(timed["op"], shape, way, us, gb_s, copy_gb_s, library_us))
    return rows


def _forked(ranks: int, folder: Path) -> list[int | None]:
    """Exit statuses. Without a GPU: importing torch anew takes longer than all that is measured."""
    fork = multiprocessing.get_context("fork")
    made = [fork.Process(target=run_rank, args=(rank, ranks, folder, True)) for rank in range(ranks)]
    for process in made:
        process.start()
    for process in made:
        process.join()
    return [process.exitcode for process in made]


def _started(ranks: int, folder: Path) -> list[int | None]:
    """Exit statuses. A process that has used its GPU cannot be forked."""
    command = [sys.executable, __file__, "--rank"]
    made = [subprocess.Popen([*command, str(rank), str(ranks), str(folder)]) for rank in range(ranks)]
    return [process.wait() for process in made]


def run_rank(rank: int, ranks: int, folder: Path, on_cpu: bool) -> int:
    """One of them; rank 0 writes a JSON line for each op and size."""
    os.putenv("GLOO_SOCKET_IFNAME", "lo")
    device = torch.device("cpu" if on_cpu else f"cuda:{rank}")
    if not on_cpu:
        torch.cuda.set_device(device)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo" if on_cpu else "nccl", init_method=store, rank=rank, world_size=ranks)
    ways, found = _ways(rank, ranks, folder, device), ""
    for op in Op:
        for size in COLLECTIVE_BYTES:
            x = torch.ones(size // 4, device=device)
            timed = {str(way): _together(getattr(team, op), x, device) for way, team in ways[op].items()}
            found += json.dumps({"op": str(op), "bytes": size, "us": timed}) + "\n"
    if rank == 0:
        (folder / "found").write_text(found)
    dist.destroy_process_group()
    return 0


def _ways(rank: int, ranks: int, folder: Path, device: torch.device) -> dict[Op, dict[Way, Collective]]:
    group: Any = dist.group.WORLD
    hardware = Hardware("cpu", one_machine=True) if device.type == "cpu" else hardware_of(group, device)
    made: dict[Way, Collective] = {}
    for way in {way for op in Op for way in possible(op, hardware)}:
        if way is Way.SHARED_MEMORY:
            made[way] = SharedMemory(_mapped(rank, ranks, folder), rank, ranks, max(COLLECTIVE_BYTES))
        elif way in (Way.NCCL, Way.GLOO):
            made[way] = ByGroup(group)
        else:
            made[way] = Symmetric(group, way, max(COLLECTIVE_BYTES), device)
    return {op: {way: made[way] for way in possible(op, hardware)} for op in Op}


def _mapped(rank: int, ranks: int, folder: Path) -> mmap.mmap:
    path, size = folder / "rows", region_bytes(ranks, max(COLLECTIVE_BYTES))
    if rank == 0:
        with open(path, "wb") as file:
            file.truncate(size)
    dist.barrier()
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), size)


def _together(run: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> float:
    """Median time of a call in microseconds, all ranks at once."""
    times = []
    for _ in range(COLLECTIVE_RUNS):
        dist.barrier()
        times.append(_once(lambda: run(x.fill_(1.0)), device))
    return statistics.median(times[COLLECTIVE_RUNS // 10 :])


if __name__ == "__main__":
    sys.exit(main())
