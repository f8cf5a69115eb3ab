"""`python -m model_server.engine.moshi.steps`: how long a frame of so many calls takes here, full-size and random.

Speed does not depend on what weights are, nor on how full rings are: the package reads them whole. Each number of
calls is a batch of its own, all of them speaking. A turn has two or three frames: three of them are to be within
160 ms (`leases.py`), one within 80 ms to keep up at all. Beside it stands the package's own loop for one session,
and what the device could do if it only read: weights and rings once a frame, at the speed of a copy. A JSON line
each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from model_server.engine.moshi.frames import FRAME_SAMPLES, MOST_FRAMES
from model_server.engine.moshi.sequences import FULL_SCALE, Networks, Sequences, dtype_of
from model_server.engine.moshi.weights import MOSHI_7B

FRAMES, BEFORE = 100, 12
COPY_BYTES = 1 << 28


def main(argv: Sequence[str] | None = None) -> int:
    """0 when it was measured, 2 where there is no GPU: 8 billion weights are more than most other machines hold."""
    parser = argparse.ArgumentParser(prog="python -m model_server.engine.moshi.steps", description=__doc__)
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 8, 16, 32], metavar="N")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"measured of each ({FRAMES})")
    parser.add_argument("--context", type=int, default=MOSHI_7B["context"], help="frames that it looks back")
    given = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("steps: no CUDA device here; the published size takes a GPU of 24 GB or more", file=sys.stderr)
        return 2
    where = torch.device("cuda")
    config = dict(MOSHI_7B) | {"context": given.context}
    networks = Networks.random(config, None, dtype_of("auto", where), where)
    print(json.dumps(alone(networks, given.frames)), flush=True)
    for calls in given.calls:
        print(json.dumps(together(networks, calls, given.frames)), flush=True)
    return 0


@torch.inference_mode()
def together(networks: Networks, calls: int, frames: int) -> dict[str, Any]:
    """The engine's steps of so many calls."""
    sequences = Sequences(networks, calls, {})
    rng = np.random.default_rng(1)
    heard = rng.normal(0, 3000, (calls, FRAME_SAMPLES)).astype(np.int16)
    everybody = np.ones(calls, np.bool_)
    found = _timed(lambda: sequences.step(heard, everybody), frames, networks.device)
    reads = _weight_bytes(networks) + calls * sequences.bytes_a_row
    found |= {
        "way": "engine", "calls": calls, "row_bytes": sequences.bytes_a_row,
        "turn_p99_ms": round(MOST_FRAMES * found["frame_p99_ms"], 2),
        "roofline_frame_ms": round(1_000 * reads / _bytes_a_second(networks.device), 2),
    }  # fmt: skip
    _forget(networks)
    return found


@torch.inference_mode()
def alone(networks: Networks, frames: int) -> dict[str, Any]:
    """The loop of the package's own server, for its one session."""
    from moshi.models import LMGen

    lm_gen, mimi = LMGen(networks.lm), networks.mimi
    mimi.streaming_forever(1)
    lm_gen.streaming_forever(1)
    chunk = torch.randn(1, 1, FRAME_SAMPLES, device=networks.device) * 3000 / FULL_SCALE

    def handle() -> None:
        tokens = lm_gen.step(mimi.encode(chunk))
        if tokens is not None:
            mimi.decode(tokens[:, 1:]).cpu()

    found = _timed(handle, frames, networks.device) | {"way": "package", "calls": 1}
    _forget(networks)
    return found


def _timed(step: Callable[[], object], frames: int, device: torch.device) -> dict[str, Any]:
    took_ms = []
    for frame in range(BEFORE + frames):
        begun_ns = time.perf_counter_ns()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if frame >= BEFORE:
            took_ms.append((time.perf_counter_ns() - begun_ns) / 1e6)
    p50, p99 = np.percentile(took_ms, [50, 99])
    return {"frame_p50_ms": round(float(p50), 2), "frame_p99_ms": round(float(p99), 2), "frames": frames}


def _weight_bytes(networks: Networks) -> int:
    parameters = [*networks.lm.parameters(), *networks.mimi.parameters()]
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _bytes_a_second(device: torch.device) -> float:
    """Read by a copy: half of what it moves."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best_s = min(_copy_s(source, target) for _ in range(5))
    return 2 * COPY_BYTES / best_s


def _copy_s(source: torch.Tensor, target: torch.Tensor) -> float:
    begun_s = time.perf_counter()
    target.copy_(source)
    if source.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun_s


def _forget(networks: Networks) -> None:
    """No state of any row."""
    for module in (networks.lm, networks.mimi):
        module.set_streaming_state(dict.fromkeys(module.get_streaming_state()))
    if networks.device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    raise SystemExit(main())
