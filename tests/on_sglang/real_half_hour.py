"""`python -m tests.on_sglang.real_half_hour`: a model server with `sglang`, and half an hour of calls in real time.

The server is a process of its own, started as `microturn` starts it, and the worker is that of
`model_server.bench`: chunks before each tick through the slot table, replies taken off the ring. Every call plays
strings of digits of unseen speakers, with pauses for the answer; every second one has a camera and counts what it
sees, one picture a second. The half hour is looked at in six windows. A line of each:

    step       mean of the server's steps, from a tick's begin until its replies are published
    reply      from a turn's tick until its reply: median, 99th percentile, the latest
    CPU        of all processes of the server
    memory     of its own (USS) of each process at the window's end
    held       the most tokens that SGLang held for sessions; looked at every ten seconds
    unanswered turns to which SGLang said nothing
    late       replies after their budget, and turns whose chunk was not there at the tick (our worker was late)
    shed       replies of turns whose picture or words were left out, since steps took too long
    load       of the machine: processes that want to run, mean of five minutes

In the last line is one JSON object, which is also a row of `half_an_hour.csv`. `holds` compares the last window
with the first: CPU, and mean step, which is as long as what else runs on the machine makes it; memory with that
after the first third. Whoever shares the machine finds late replies here, too: `answered` is whether there was
one at all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from media.timebase import NS_PER_MS, TURN_NS
from model_server.bench.rows import append_row
from model_server.bench.worker import START_S, Call, Worker
from model_server.engine.sglang.limits import SESSION_TOKENS
from model_server.training import cases
from model_server.training.corpus import DATA
from model_server.training.long_call import joined

ROWS = Path(__file__).with_name("half_an_hour.csv")
WINDOWS = 6
STRINGS = 32
LOOK_S = 10.0
LEAD_S = 15.0
"""Before the first window: every size has been met, every ring is full."""
PICTURE_SIZE = "120x80"
"""What the network sees, so nothing is scaled."""
SLOWER = 1.15
SUMS = ("turns", "unanswered", "overdue", "missed", "shed", "rolled")
GROWTH_MB = 6.0
"""Of the last two thirds, all processes together. Media alone, if it were kept, would be 400 MB."""


@dataclass(frozen=True, slots=True)
class Window:
    """Of `minutes / WINDOWS`."""

    steps: int
    step_mean_ms: float
    reply_p50_ms: float
    reply_p99_ms: float
    reply_most_ms: float
    cpu_s: float
    memory_mb: dict[str, float]
    """By process."""
    tokens_held: int
    turns: int
    unanswered: int
    overdue: int
    missed: int
    shed: int
    rolled: int
    load: float


class Server:
    """A model server with `sglang`, and its processes."""

    def __init__(self, path: Path, calls: int, groups: int) -> None:
        self.path = path
        command = [sys.executable, "-W", "ignore", "-m", "model_server", "--engine", "sglang"]
        command += ["--socket", str(path), "--slots", str(calls), "--groups", str(groups)]
        command += ["--video-size", PICTURE_SIZE, "--log-level", "warning"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith("ready"):
            raise SystemExit(f"the model server does not start: {' '.join(command)}")
        front = psutil.Process(self._process.pid)
        self._processes = {"front": front} | {_name(child): child for child in front.children(recursive=True)}

    def memory_mb(self) -> dict[str, float]:
        """Its own of each process (USS)."""
        return {name: _uss_mb(process) for name, process in self._processes.items()}

    def cpu_s(self) -> float:
        """Of all processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes.values())

    def end(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=START_S)


def _name(process: psutil.Process) -> str:
    for part in ("scheduler", "detokenizer", "resource_tracker"):
        if part in " ".join((process.name(), *process.cmdline())):
            return part
    return f"{process.name()}-{process.pid}"


def _uss_mb(process: psutil.Process) -> float:
    return round(process.memory_full_info().uss / 2**20, 1)


@contextlib.contextmanager
def serving(calls: int, groups: int) -> Iterator[Server]:
    """A server of so many calls, until the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "model.sock", calls, groups)
        try:
            yield server
        finally:
            server.end()


def callers(count: int, seconds: float, data: Path) -> list[Call]:
    """Of so many seconds each."""
    strings = cases.of(["paused"], STRINGS, data)
    width, height = (int(side) for side in PICTURE_SIZE.split("x"))
    pictures = list(np.random.default_rng(2).integers(0, 255, (4, height, width, 3), np.uint8))
    found = []
    for number in range(count):
        case, _ = joined(strings, number, seconds)
        sees = number % 2 == 1
        found.append(
            Call(
                number, "count" if sees else case.persona, case.caller, (), pictures=pictures if sees else ()
            )
        )
    return found


def windows(server: Server, worker: Worker, calls: Sequence[Call], minutes: float) -> Iterator[Window]:
    """One after another, as they are over."""
    at_s, every_s = LEAD_S, 60.0 * minutes / WINDOWS
    worker.run(at_s)
    before, cpu_s = worker.stats(), server.cpu_s()
    for _ in range(WINDOWS):
        first = calls[0].turn
        end_s, held = at_s + every_s, 0
        while at_s < end_s:
            at_s = min(end_s, at_s + LOOK_S)
            worker.run(at_s)
            after = worker.stats()
            held = max(held, after["gauges"]["sglang_tokens_held"])
        used_s = server.cpu_s()
        delays_ms = [
            ns / NS_PER_MS for call in calls for turn, ns in call.delays_ns.items() if turn >= first - 1
        ]
        yield Window(
            **_counted(before, after),
            **_quantiles(delays_ms),
            cpu_s=round(used_s - cpu_s, 1),
            memory_mb=server.memory_mb(),
            tokens_held=held,
            load=round(os.getloadavg()[1], 2),
        )
        before, cpu_s = after, used_s


def _counted(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Between two looks."""
    counts = {name: after["counters"][name] - value for name, value in before["counters"].items()}
    step, earlier = after["histograms"]["step_ns"], before["histograms"]["step_ns"]
    steps = sum(step["counts"]) - sum(earlier["counts"])

    def more(gauge: str) -> int:
        return int(after["gauges"][gauge] - before["gauges"][gauge])

    return {
        "steps": steps,
        "step_mean_ms": round((step["sum_ns"] - earlier["sum_ns"]) / max(1, steps) / NS_PER_MS, 2),
        "turns": counts["turns_total"],
        "overdue": counts["turns_overdue_total"],
        "missed": counts["turns_missed_total"] + counts["publishes_refused_total"],
        "shed": counts["turns_shed_total"],
        "unanswered": more("sglang_turns_unanswered_total"),
        "rolled": more("sglang_sessions_rolled_total"),
    }


def _quantiles(delays_ms: Sequence[float]) -> dict[str, float]:
    names = ("reply_p50_ms", "reply_p99_ms", "reply_most_ms")
    found = np.quantile(delays_ms, (0.5, 0.99, 1.0)) if delays_ms else (0.0, 0.0, 0.0)
    return {name: round(float(ms), 1) for name, ms in zip(names, found, strict=True)}


def row_of(seen: Sequence[Window], calls: int, groups: int, minutes: float) -> dict[str, Any]:
    """All windows in one row; see the module for `holds`."""
    first, last = seen[0], seen[-1]
    settled = seen[len(seen) // 3 - 1]
    grew = {name: round(mb - settled.memory_mb[name], 1) for name, mb in last.memory_mb.items()}
    return {
        "calls": calls, "groups": groups, "minutes": minutes, "cores": os.cpu_count(),
        **{name: sum(getattr(window, name) for window in seen) for name in SUMS},
        "step_mean_ms": [first.step_mean_ms, last.step_mean_ms],
        "reply_p50_ms": [first.reply_p50_ms, last.reply_p50_ms],
        "reply_p99_ms": [first.reply_p99_ms, last.reply_p99_ms],
        "cpu_s": [first.cpu_s, last.cpu_s], "memory_mb": last.memory_mb, "memory_grew_mb": grew,
        "tokens_held": max(window.tokens_held for window in seen),
        "holds": {
            "cpu": last.cpu_s <= SLOWER * first.cpu_s,
            "step": last.step_mean_ms <= SLOWER * first.step_mean_ms,
            "memory": sum(grew.values()) <= GROWTH_MB,
            "tokens": all(window.tokens_held <= calls * SESSION_TOKENS for window in seen),
            "answered": not any(window.unanswered for window in seen),
        },
        "windows": [asdict(window) for window in seen],
    }  # fmt: skip


def line_of(number: int, window: Window, minutes: float) -> str:
    """Of the table."""
    memory = ", ".join(f"{name} {mb:.0f}" for name, mb in window.memory_mb.items())
    return (
        f"minute {minutes * number / WINDOWS:4.1f}-{minutes * (number + 1) / WINDOWS:4.1f}  "
        f"step {window.step_mean_ms:5.1f} ms  reply {window.reply_p50_ms:5.1f} {window.reply_p99_ms:6.1f} "
        f"{window.reply_most_ms:6.1f} ms  CPU {window.cpu_s:5.1f} s  memory {memory} MB  "
        f"held {window.tokens_held}  turns {window.turns}  unanswered {window.unanswered}  "
        f"late {window.overdue}+{window.missed}  shed {window.shed}  load {window.load}"
    )


def main(arguments: Sequence[str]) -> int:
    """0; 1 when something does not hold."""
    parser = argparse.ArgumentParser(prog="real_half_hour", description=__doc__)
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--groups", type=int, default=1, help="phase groups of its turn clock (1: one step for all)"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="recordings of the callers")
    parser.add_argument("--rows", type=Path, default=ROWS)
    asked = parser.parse_args(arguments)
    if asked.minutes * 60 < WINDOWS * LOOK_S:
        parser.error(
            f"--minutes {asked.minutes}: expected {WINDOWS * LOOK_S / 60} or more, {WINDOWS} windows"
        )
    made = callers(asked.calls, LEAD_S + 60 * asked.minutes + TURN_NS / 1e9, asked.data)
    with serving(asked.calls, asked.groups) as server:
        worker = Worker(server.path, made, must=True)
        begun_s = time.monotonic()
        seen = []
        for window in windows(server, worker, made, asked.minutes):
            print(line_of(len(seen), window, asked.minutes), flush=True)
            seen.append(window)
        worker.close()
    row = row_of(seen, asked.calls, asked.groups, asked.minutes)
    row["wall_s"] = round(time.monotonic() - begun_s)
    row["words"] = sum(len(text.split()) for call in made for _, text in call.texts)
    append_row(asked.rows, row)
    print(json.dumps(row))
    return not all(row["holds"].values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
