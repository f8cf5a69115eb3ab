"""Many calls on a real model server, in real time: step time, deadlines, and what was admitted.

A server process of its own, held to one core, is given its chunks through the slot table, as a worker would: each
call plays recordings of somebody who says digits, with seconds of silence between, from a place of its own on;
replies are taken off the ring and counted as played. No telephone is in between: this measures the server alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from media.chunk import PCM, Chunk
from media.leases import MAX_BYTES, Attached, Hello, Lease, Leased, Stats, StatsRequest, decode, encode
from media.slots import SlotTable
from media.timebase import MODEL_HZ, NS_PER_MS, NS_PER_S, TURN_NS, TURN_SAMPLES, tick_at_or_after
from model_server.bench.worker import CUT_NS, START_S

PAUSE_S = 4.0
"""Between two recordings: the model answers in it."""
SETTLE_TURNS = 75
"""15 s: the memory of every call is full, and code has met every size; not counted."""


def measure(checkpoint: Path, data: Path, calls: int, seconds: float, groups: int) -> dict[str, Any]:
    """So many calls for so long. `RuntimeError` when the server does not serve."""
    voices = recordings(data)
    with serving(checkpoint, groups) as feeder:
        admitted = feeder.lease(calls)
        feeder.feed(voices, SETTLE_TURNS)
        before = feeder.stats()
        feeder.feed(voices, round(seconds * NS_PER_S / TURN_NS))
        after = feeder.stats()
    return {"calls": calls, "admitted": admitted, "seconds": seconds, "groups": groups} | figures(
        before, after
    )


def recordings(data: Path) -> PCM:
    """All of `connected_digits` behind one another, `PAUSE_S` of silence after each: int16 [n], 16 kHz."""
    paths = sorted((data / "speech" / "connected_digits").glob("*.flac"))
    if not paths:
        raise RuntimeError(
            f"no recordings in {data / 'speech' / 'connected_digits'}: name their folder by --data"
        )
    silence = np.zeros(int(PAUSE_S * MODEL_HZ), np.int16)
    parts: list[PCM] = []
    for path in paths:
        pcm, rate_hz = soundfile.read(path, dtype="int16")
        assert rate_hz == MODEL_HZ, path
        parts += [pcm, silence]
    return np.concatenate(parts)


def figures(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What was counted between two looks; percentiles are the upper bounds of their buckets."""
    counted = {name: after["counters"][name] - value for name, value in before["counters"].items()}
    step = after["histograms"]["step_ns"]
    counts = np.array(step["counts"]) - before["histograms"]["step_ns"]["counts"]
    bounds = [*(ns / NS_PER_MS for ns in step["le_ns"]), float("inf")]
    turns = counted["turns_total"]
    late = counted["turns_overdue_total"] + counted["turns_missed_total"] + counted["publishes_refused_total"]
    return {
        "turns": turns,
        "overdue": counted["turns_overdue_total"],
        "missed": counted["turns_missed_total"],
        "shed": counted["turns_shed_total"],
        "misses_percent": round(100 * late / turns, 4) if turns else None,
        "steps": int(counts.sum()),
        "step_mean_ms": round(
            (step["sum_ns"] - before["histograms"]["step_ns"]["sum_ns"]) / counts.sum() / 1e6, 1
        )
        if counts.sum()
        else None,
        "step_at_most_ms": {name: bounds[_place(counts, q)] for name, q in (("p50", 0.5), ("p99", 0.99))},
        "passes_a_step": round(counted["passes_total"] / max(1, int(counts.sum())), 2),
        "shedding": after["gauges"]["shedding"],
    }


class Feeder:
    """One worker, with calls of recordings instead of people."""

    def __init__(self, connection: socket.socket, table: SlotTable) -> None:
        self._connection, self._table = connection, table
        self._leased: list[Leased] = []
        self._turn = self._first_ns = 0

    def lease(self, calls: int) -> int:
        """How many the server takes, of so many."""
        for number in range(calls):
            answer = self._ask(Lease(f"call {number}"))
            if not isinstance(answer, Leased):
                print(f"call {number}: {answer}", flush=True)
                break
            self._leased.append(answer)
        return len(self._leased)

    def feed(self, voices: PCM, turns: int) -> None:
        """So many turns of every call, each group before its ticks; every reply is taken."""
        table, groups = self._table, self._table.groups
        by_group = [[lease for lease in self._leased if lease.group == g] for g in range(groups)]
        self._first_ns = self._first_ns or tick_at_or_after(time.monotonic_ns() + TURN_NS, 0, groups)
        slots = np.array([lease.slot for lease in self._leased])
        for turn in range(self._turn, self._turn + turns):
            for group, leases in enumerate(by_group):
                tick_ns = self._first_ns + turn * TURN_NS + group * TURN_NS // groups
                time.sleep(max(0, tick_ns - CUT_NS - time.monotonic_ns()) / NS_PER_S)
                for lease in leases:
                    pcm = self._heard(voices, lease.slot, turn)
                    played = TURN_SAMPLES if turn else 0
                    chunk = Chunk(lease.generation, turn, tick_ns, pcm, played_samples=played)
                    table.put_chunk(lease.slot, chunk)
            table.outbound.advance(np.intersect1d(slots, table.outbound.ready()))
        self._turn += turns

    def stats(self) -> dict[str, Any]:
        """What the server has counted so far."""
        answer = self._ask(StatsRequest())
        assert isinstance(answer, Stats), answer
        return answer.fields

    def _heard(self, voices: PCM, slot: int, turn: int) -> PCM:
        at = (slot * 7 * MODEL_HZ + turn * TURN_SAMPLES) % (len(voices) - TURN_SAMPLES)
        return voices[at : at + TURN_SAMPLES]

    def _ask(self, message: Lease | StatsRequest) -> Any:
        self._connection.send(encode(message))
        return decode(self._connection.recv(MAX_BYTES))


@contextlib.contextmanager
def serving(checkpoint: Path, groups: int) -> Iterator[Feeder]:
    """A server with `digits` on the last core that we may use, and a feeder at it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.sock"
        command = [
            sys.executable,
            "-m",
            "model_server",
            "--engine",
            "digits",
            "--checkpoint",
            str(checkpoint),
        ]
        command += ["--socket", str(path), "--groups", str(groups), "--realtime-priority"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=one_core)
        try:
            assert server.stdout is not None
            if not server.stdout.readline().startswith("ready"):
                raise RuntimeError(f"the model server does not start: {' '.join(command)}")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.settimeout(START_S)
                connection.connect(str(path))
                table, descriptors = _attach(connection)
                try:
                    yield Feeder(connection, table)
                finally:
                    table.close()
                    _close(descriptors)
        finally:
            server.terminate()
            server.wait(START_S)


def one_core() -> None:
    """For a process that is to measure one: the last that we may use."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _attach(connection: socket.socket) -> tuple[SlotTable, list[int]]:
    connection.send(encode(Hello("bench", os.getpid())))
    packet, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 3)
    message = decode(packet)
    assert isinstance(message, Attached), message
    return SlotTable.attach(descriptors[0]), descriptors[1:]


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _place(counts: Any, quantile: float) -> int:
    return int(np.searchsorted(np.cumsum(counts), quantile * counts.sum()))
