"""Kernels against the bandwidth of the device and against what torch itself has for the same thing.

    python kernels/bench/run.py          on a GPU: a row per op and shape, then one JSON line
    python kernels/bench/run.py --cpu    the references alone, on one CPU core

The roofline of a row is the time in which the device copies the bytes that the op must move at least: each operand
once. How fast it copies is measured first. Between two runs on a GPU the L2 cache is filled with something else.
The fused collective needs several GPUs, and is not measured here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from turn_kernels.flow_head_step import FlowWeights, flow_head_step
from turn_kernels.forms import Form, require_triton
from turn_kernels.mixture import MixtureWeights, mixture
from turn_kernels.overlap_add import overlap_add

COPY_BYTES = {"cpu": 1 << 26, "cuda": 1 << 28}
FLUSH_BYTES = 1 << 28
"""More than any L2 cache has."""
RUNS = 20


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
    parser.add_argument("--cpu", action="store_true", help="measure the references on one CPU core")
    on_cpu: bool = parser.parse_args(arguments).cpu
    if not on_cpu and (missing := what_is_missing()):
        print(f"kernels.bench: {missing}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    device = torch.device("cpu" if on_cpu else "cuda")
    copy_gb_s = copied_gb_s(device)
    name = "CPU, one core" if on_cpu else torch.cuda.get_device_name(device)
    print(f"{name}: copies {copy_gb_s:.1f} GB/s; torch {torch.__version__}")
    print(f"{'op':16} {'shape':34} {'form':9} {'us':>9} {'GB/s':>8} {'of copy':>8} {'torch us':>9}")
    rows = [row for case in cases(device) for row in measured(case, device, copy_gb_s)]
    print(json.dumps({"device": name, "copy_gb_s": round(copy_gb_s, 1), "rows": rows}))
    return 0


def what_is_missing() -> str:
    """Why nothing can be measured here, and what to do; empty when it can."""
    if not torch.cuda.is_available():
        return (
            "no CUDA device: expected a GPU and the CUDA build of torch 2.13.0. "
            "On the CPU only the references run: add --cpu"
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
        row = {
            "op": case.op,
            "shape": case.shape,
            "form": str(form),
            "us": round(taken_us, 1),
            "gb_s": round(gb_s, 2),
            "of_copy": round(gb_s / copy_gb_s, 4),
            "torch_us": None if library_us is None else round(library_us, 1),
        }
        torch_us = "-" if library_us is None else f"{library_us:.1f}"
        print(
            f"{case.op:16} {case.shape:34} {form:9} {taken_us:9.1f} {gb_s:8.2f} {row['of_copy']:8.4f} {torch_us:>9}"
        )
        yield row


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
    hidden, width, experts, chosen, shared = (
        (192, 192, 8, 2, 1) if device.type == "cpu" else (2048, 768, 128, 6, 2)
    )
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for rows in (1, 8, 32):
        yield _mixture(rows, hidden, width, experts, chosen, shared, dtype, device)


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


def _mixture(
    rows: int,
    hidden: int,
    width: int,
    experts: int,
    chosen: int,
    shared: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Case:
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


if __name__ == "__main__":
    sys.exit(main())
