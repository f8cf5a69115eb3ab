"""Sessions that one device holds with a network of any size and random weights: step time by bucket, its 99th
percentile against a deadline, beside the roofline of the same device in the same run.

Speed does not depend on what weights are. Every session has full memory: keys and values at their bound. A step is
that of `model/device`: inputs copied in, one prefill, so many passes of a token for all rows, one pass of sound,
samples copied out; with graphs, and with its passes called one operation at a time.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from media.timebase import NS_PER_S
from model_server.bench.held import GB, CannotMeasure, Room, buckets_for, held
from model_server.bench.roofline import Speeds, step_seconds
from model_server.model.config import DIGITS, ModelConfig, config_of
from model_server.model.device.random_weights import random_flow_head, random_interaction, weight_bytes
from model_server.model.device.state import session_bytes
from model_server.model.device.step import BUCKETS, EVERY_TURN, DeviceStep
from model_server.model.flow_head import OUTPUTS
from model_server.model.inputs import TurnInputs
from model_server.model.interaction import Interaction
from model_server.model.micro_turn import HEAR_POSITIONS, MEL_CHANNELS, MEL_LEVELS, TRUTH_LEVELS

TINY = replace(
    DIGITS,
    name="tiny",
    layers=2,
    hidden=32,
    heads=4,
    head_dim=8,
    window=16,
    bias_extent=16,
    dense_layers=1,
    dense_width=32,
    experts=4,
    expert_width=16,
    vision_widths=(8, 8, 8),
    global_first=4,
    global_budget=24,
)
"""For the command itself, on a CPU."""
TINY_BUCKETS = (1, 2, 4)
SEED = 20_261_123
USUAL_TOKENS = 4
MOST = 512
"""Sessions up to which the roofline is asked."""
WARM_UP, LEAST_STEPS = 3, 10
BEYOND = 3
"""Times the deadline: larger buckets are not measured."""
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 24}
PRODUCT = {"cuda": 8192, "cpu": 256}
"""Rows and columns of the matrices that are multiplied."""
SPEED_RUNS = 10
NOISE_TURNS = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured."""

    config: str
    device: str
    seconds: float
    """Of each bucket, number of tokens and way."""
    deadline_ms: float
    tokens: tuple[int, ...]
    """Passes of a token in a step; none are 0 and `USUAL_TOKENS`."""
    groups: tuple[int, ...]
    buckets: tuple[int, ...] | None
    context: int
    """Positions of text of every call in every turn."""
    flow_steps: int

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.deadline_ms <= 0 or self.context < 0:
            raise CannotMeasure(
                f"expected seconds and a deadline above 0 and a context of at least 0: {self}"
            )
        if (
            min(self.tokens, default=0) < 0
            or min((*self.groups, *(self.buckets or (1,)), self.flow_steps)) < 1
        ):
            raise CannotMeasure(f"expected tokens of at least 0, groups, buckets and flow steps of 1: {self}")


def measure(asked: Asked, plot: Path | None = None) -> dict[str, Any]:
    """Table, plot and figures; `CannotMeasure` where that cannot be done here."""
    config = TINY if asked.config == TINY.name else _config(asked.config)
    tokens = asked.tokens or (0, min(USUAL_TOKENS, config.say_limit))
    if max(tokens) > config.say_limit:
        raise CannotMeasure(
            f"--tokens {max(tokens)}: expected at most {config.say_limit}, what {config.name} writes in a turn"
        )
    asked = replace(asked, tokens=tokens)
    device = _device(asked.device, config)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    room = _room(config, device, dtype.itemsize, asked.context)
    room.expect_one(config.name)
    wanted = asked.buckets or (TINY_BUCKETS if config is TINY else BUCKETS)
    buckets = buckets_for(room.sessions, wanted)
    speeds = _speeds(device, dtype)
    print(
        f"device {device.type}: {room.device}; {room.total / GB:.1f} GB, {room.free / GB:.1f} free; "
        f"copies {speeds.bytes_a_second / GB:.1f} GB/s, multiplies {speeds.flops_a_second / 1e12:.2f} TFLOP/s"
    )
    step, capture_s = _step(config, device, dtype, buckets, asked)
    graphs = len(step.graphs) or "none"
    print(
        f"{config.name}: {room.weights / GB:.2f} GB of weights, {room.session / GB:.4f} GB a session, "
        f"{room.sessions} sessions fit; graphs {graphs}"
        + (f", captured in {capture_s:.1f} s" if capture_s else "")
    )
    points = list(_points(step, config, asked, speeds, dtype.itemsize))
    result: dict[str, Any] = {
        "config": config.name,
        "device": device.type,
        "device_name": room.device,
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "graphs": graphs,
        "deadline_ms": asked.deadline_ms,
        "context": asked.context,
        "weight_gb": round(room.weights / GB, 3),
        "session_gb": round(room.session / GB, 5),
        "sessions_fit": room.sessions,
        "copy_gb_s": round(speeds.bytes_a_second / GB, 1),
        "tflop_s": round(speeds.flops_a_second / 1e12, 3),
        "held": list(_held(points, config, asked, speeds, dtype.itemsize, min(room.sessions, MOST))),
        "points": points,
    }
    if plot is not None:
        _draw(result, plot)
    return result


# -- what there is


def _config(name: str) -> ModelConfig:
    try:
        return config_of(name)
    except ValueError as error:
        raise CannotMeasure(f"{error}, or {TINY.name}") from error


def _device(name: str, config: ModelConfig) -> torch.device:
    if name == "cpu" or torch.cuda.is_available():
        return torch.device(name)
    raise CannotMeasure(
        f"no CUDA device here (torch {torch.__version__}): expected a GPU that holds {config.name} in bfloat16 "
        "(small-30b-a3b: an H200), with the CUDA build of torch 2.13.0 and triton. Run it there; the command "
        "itself can be tried with --config tiny --device cpu"
    )


def _room(config: ModelConfig, device: torch.device, item_bytes: int, context: int) -> Room:
    with torch.device("meta"):
        weights = item_bytes * sum(parameter.numel() for parameter in Interaction(config).parameters())
    weights += weight_bytes(random_flow_head(1, SEED, torch.device("cpu")))
    session = session_bytes(config, context + EVERY_TURN, item_bytes)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Room(torch.cuda.get_device_name(device), total, free, weights, session)
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = (page * os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    return Room("this machine's memory", total, free, weights, session)


def _speeds(device: torch.device, dtype: torch.dtype) -> Speeds:
    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    size = PRODUCT[device.type]
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    copy_s = _median_s(lambda: target.copy_(source), device)
    product_s = _median_s(lambda: a @ b, device)
    return Speeds(2 * len(source) / copy_s, 2 * size**3 / product_s)


def _median_s(run: Callable[[], object], device: torch.device) -> float:
    run()
    return statistics.median(_once_s(run, device) for _ in range(SPEED_RUNS))


def _once_s(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begun_ns = time.perf_counter_ns()
    run()
    _wait(device)
    return (time.perf_counter_ns() - begun_ns) / NS_PER_S


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- steps


def _step(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, buckets: tuple[int, ...], asked: Asked
) -> tuple[DeviceStep, float]:
    """With sessions for the largest bucket, all of them full; seconds that captures took."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    step = DeviceStep(
        random_interaction(config, SEED, dtype, device),
        random_flow_head(config.hidden, SEED, device),
        buckets[-1],
        buckets=buckets,
        contexts=(asked.context,),
        flow_steps=asked.flow_steps,
    )
    step.fill(SEED)
    capture_s = _once_s(step.capture, device) if step.graphs.enabled else 0.0
    return step, capture_s


def _points(
    step: DeviceStep, config: ModelConfig, asked: Asked, speeds: Speeds, item_bytes: int
) -> Iterator[dict[str, Any]]:
    """Printed as they come."""
    columns = ("p50, ms", "p99, ms", "roofline")
    heads = "".join(f"{name:>10}" for name in columns)
    print(f"{'sessions':>8}{'tokens':>8}{'graphs':>8}{heads}{'share':>8}{'steps':>7}")
    for with_graphs in (True, False) if step.graphs.enabled else (False,):
        step.graphs.enabled = with_graphs
        for tokens in asked.tokens:
            for sessions in step.buckets:
                ms = _taken_ms(step, sessions, tokens, asked)
                p50, p99 = (float(np.quantile(ms, q, method="higher")) for q in (0.5, 0.99))
                least_ms = 1e3 * step_seconds(config, sessions, asked.context, tokens, speeds, item_bytes)
                point: dict[str, Any] = {
                    "sessions": sessions,
                    "tokens": tokens,
                    "graphs": with_graphs,
                    "p50_ms": round(p50, 3),
                    "p99_ms": round(p99, 3),
                    "roofline_ms": round(least_ms, 4),
                    "steps": len(ms),
                }
                told = "yes" if with_graphs else "no"
                print(
                    f"{sessions:>8}{tokens:>8}{told:>8}{p50:>10.2f}{p99:>10.2f}{least_ms:>10.2f}"
                    f"{least_ms / p50:>8.2f}{len(ms):>7}",
                    flush=True,
                )
                yield point
                if p50 > BEYOND * asked.deadline_ms:
                    break


def _taken_ms(step: DeviceStep, sessions: int, tokens: int, asked: Asked) -> list[float]:
    """Each step from its inputs on the host to its samples on the host."""
    rng = np.random.default_rng(sessions)
    noise = torch.randn(NOISE_TURNS, 4 * sessions, OUTPUTS, generator=torch.Generator().manual_seed(sessions))
    levels = (sessions, HEAR_POSITIONS, MEL_CHANNELS)
    inputs = TurnInputs(
        torch.from_numpy(rng.integers(0, MEL_LEVELS, levels, dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, MEL_LEVELS, levels, dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, TRUTH_LEVELS, levels[:2], dtype=np.uint8)),
        text={b: (1,) * asked.context for b in range(sessions)} if asked.context else {},
    )
    rows = list(range(sessions))
    taken: list[float] = []
    gc.collect()
    until_s = time.perf_counter() + asked.seconds
    while len(taken) < WARM_UP + LEAST_STEPS or time.perf_counter() < until_s:
        of_turn = noise[len(taken) % NOISE_TURNS]
        turn = partial(step.turn, rows, inputs, of_turn, tokens, look=False)
        taken.append(1e3 * _once_s(turn, step.state.device))
    return taken[WARM_UP:]


# -- what came out


def _held(
    points: Sequence[dict[str, Any]],
    config: ModelConfig,
    asked: Asked,
    speeds: Speeds,
    item_bytes: int,
    most: int,
) -> Iterator[dict[str, Any]]:
    """Sessions for each number of tokens and groups, printed."""
    print(f"sessions held, each step's p99 within {asked.deadline_ms:g} ms (by the roofline, of {most}):")
    for tokens in asked.tokens:
        least = {
            rows: 1e3 * step_seconds(config, rows, asked.context, tokens, speeds, item_bytes)
            for rows in range(1, most + 1)
        }
        for groups in asked.groups:
            found: dict[str, Any] = {"tokens": tokens, "groups": groups}
            for with_graphs, name in ((True, "with_graphs"), (False, "without")):
                p99_ms = {
                    point["sessions"]: point["p99_ms"]
                    for point in points
                    if (point["tokens"], point["graphs"]) == (tokens, with_graphs)
                }
                found[name] = held(p99_ms, groups, asked.deadline_ms, most) if p99_ms else None
            found["roofline"] = held(least, groups, asked.deadline_ms, most)
            told = found["without"] if found["with_graphs"] is None else found["with_graphs"]
            print(f"  {tokens} tokens, {groups} phase groups: {told} ({found['roofline']})")
            yield found


def _draw(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    series = sorted({(point["tokens"], point["graphs"]) for point in result["points"]})
    for tokens, graphs in series:
        some = [point for point in result["points"] if (point["tokens"], point["graphs"]) == (tokens, graphs)]
        sessions = [point["sessions"] for point in some]
        name = f"{tokens} tokens, " + ("graphs" if graphs else "no graphs")
        (drawn,) = axes.plot(sessions, [point["p99_ms"] for point in some], "o-", label=f"{name}, p99")
        least = [point["roofline_ms"] for point in some]
        axes.plot(sessions, least, ":", color=drawn.get_color(), label=f"{tokens} tokens, roofline")
    axes.axhline(result["deadline_ms"], color="grey", label="deadline")
    title = f"{result['config']} on {result['device_name']}"
    axes.set(xlabel="sessions in a step, full memories", ylabel="step, ms", ylim=(0, None), title=title)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
