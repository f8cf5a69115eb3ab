"""`make compare-sglang`: one network, one machine, one run, four ways to it, in float32.

    digits      the engine of our own: trunk, flow head and voice in one process and one thread
    sglang      the engine `sglang`: in this process SGLang's front, flow head and voice; its scheduler is another
    apart       the same, where each call's request is a message of its own, as SGLang sends them by itself
    http        the same with SGLang behind its HTTP server: what a server of its own on the same machine would cost

Each is given the same turns of the same calls, all of them in one step, and answers with the same tokens. A row of
the result is a number of calls; times are milliseconds of a whole step. `within` is the largest number of calls, of
those tried, whose steps of one group are within 50 ms in 99 of 100 cases: four groups have four times as many.
Processes are asked one after another and share what cores there are: figures of a machine with fewer cores than
processes are not those of machines with more.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch

from model_server.config import set_environment
from model_server.engine.digits import DigitsEngine
from model_server.engine.registry import CHECKPOINT
from model_server.engine.sglang import asking, host
from model_server.engine.sglang.asking import Answer, Lost
from model_server.engine.sglang.engine import SglangEngine
from model_server.engine.sglang.limits import Limits
from model_server.engine.sglang.turn_item import TurnItem
from tests.model_server.engine.conftest import batch_of, voice

SESSION_TOKENS = 2_048
GROUP_BUDGET_MS = 50.0
FILLED_TURNS = 70
"""Until the rings of a call are full: 559 positions."""
READY_S = 180.0
COLUMNS = ("date", "way", "calls", "p50_ms", "p99_ms", "worst_ms", "turns", "cores")


class OverHttp:
    """What `Host` is, with an SGLang behind HTTP."""

    def __init__(self, folder: Path, limits: Limits, port: int) -> None:
        set_environment(**host.environment())
        flags: list[str] = []
        for name, value in host.arguments(folder, limits).items():
            flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        command = [sys.executable, "-W", "ignore", "-m", "sglang.launch_server", "--port", str(port), *flags]
        self._server = subprocess.Popen(command)
        self._url, self._limits, self._names = f"http://127.0.0.1:{port}", limits, itertools.count()
        self._pool = ThreadPoolExecutor(limits.calls)
        self._sessions = [requests.Session() for _ in range(limits.calls)]
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            try:
                if requests.get(f"{self._url}/health", timeout=2).ok:
                    return
            except requests.ConnectionError:
                time.sleep(1)
        self.close()
        raise SystemExit(f"SGLang's HTTP server did not answer in {READY_S:.0f} s")

    def close(self) -> None:
        self._server.terminate()
        self._server.wait(30)

    def open_sessions(self, count: int) -> list[str]:
        wish = {"capacity_of_str_len": host.NO_LIMIT, "streaming": True, "timeout": self._limits.idle_s}
        names = [f"http-{next(self._names)}" for _ in range(count)]
        return [str(self._ask(0, "open_session", {**wish, "session_id": name})) for name in names]

    def close_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            requests.post(f"{self._url}/close_session", json={"session_id": session}, timeout=10)

    def turns(
        self, asked: Sequence[tuple[TurnItem, str]], seconds: float | None = None
    ) -> list[Answer | Lost | None]:
        def ask(at: int) -> Answer | Lost | None:
            item, session = asked[at]
            found = asking.answer_of(self._ask(at, "generate", asking.request(item, session, over_http=True)))
            return None if isinstance(found, str) else found

        return list(self._pool.map(ask, range(len(asked))))

    def _ask(self, at: int, what: str, wish: dict[str, Any]) -> Any:
        answer = self._sessions[at].post(f"{self._url}/{what}", json=wish, timeout=30)
        answer.raise_for_status()
        return answer.json()


def measured(engine: Any, calls: int, turns: int) -> tuple[list[float], list[Any]]:
    """Milliseconds of each step, once the calls keep all that they ever will, and what was said."""
    for slot in range(calls):
        engine.open(slot, "every 2")
    pcm = {slot: voice(slot, 100) for slot in range(calls)}
    times, said = [], []
    for turn in range(FILLED_TURNS + turns):
        batch = batch_of(
            dict.fromkeys(range(calls), turn), {slot: pcm[slot][turn % 100] for slot in pcm}, played=0
        )
        begun_s = time.perf_counter()
        said.append(engine.step(batch).said)
        if turn >= FILLED_TURNS:
            times.append(1_000 * (time.perf_counter() - begun_s))
    for slot in range(calls):
        engine.close(slot)
    return times, said


def main(arguments: Sequence[str]) -> int:
    """0; 1 when the ways did not say the same."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__)
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--turns", type=int, default=150)
    parser.add_argument("--port", type=int, default=31_999)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("comparison.csv"))
    asked = parser.parse_args(arguments)
    most = max(asked.calls)
    limits = Limits(most, 90, session_tokens=SESSION_TOKENS, turn_s=20.0)
    digits = DigitsEngine(CHECKPOINT, products=torch.float32)
    digits.warm(most)
    engine = SglangEngine(CHECKPOINT, calls=most, products=torch.float32, limits=limits)
    engine.warm(most)
    expected: dict[int, list[Any]] = {}
    rows: list[dict[str, Any]] = []
    differ: list[str] = []

    def way(name: str, one: Any) -> None:
        for calls in asked.calls:
            times, said = measured(one, calls, asked.turns)
            p50, p99 = np.quantile(times, [0.5, 0.99])
            row = (datetime.now(UTC).date(), name, calls, f"{p50:.1f}", f"{p99:.1f}", f"{max(times):.1f}")
            rows.append(dict(zip(COLUMNS, (*row, asked.turns, os.cpu_count()), strict=True)))
            print(rows[-1], flush=True)
            if expected.setdefault(calls, said) != said:
                differ.append(f"{name}, {calls} calls: said something else than digits")

    way("digits", digits)
    way("sglang", engine)
    front = engine.host._engine.tokenizer_manager
    together = front.together
    front.together = lambda _: together(1)  # each is sent when it is packed
    way("apart", engine)
    engine.host.close()
    over_http: Any = OverHttp(Path(engine._folder.name), limits, asked.port)
    engine.host = over_http
    way("http", engine)
    over_http.close()
    for name in ("digits", "sglang", "apart", "http"):
        fitting = [
            row["calls"] for row in rows if row["way"] == name and float(row["p99_ms"]) <= GROUP_BUDGET_MS
        ]
        print(f"{name}: within {GROUP_BUDGET_MS:.0f} ms up to {max(fitting, default=0)} calls of a group")
    new = not asked.rows.exists()
    with asked.rows.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print("\n".join(differ) or "all said the same")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
