"""Calls through SIGKILL of their model server: what each loses, and whether it is answered as if nothing was.

Two server processes with `digits` on one core: one serves, one is a spare (`--spare`) that takes over; and a worker
(`worker.py`). Each call plays strings of digits of unseen speakers, its own and from a place of its own on, in real
time. Afterwards the same calls are given to an engine that nobody kills.

    gap        from the kill to the playout point of the call's first reply that was published in time for it
    lost       turns from the kill on that got no reply in time
    answers    words said to the string that the kill fell into: while the caller spoke it (`heard`), while the
               model said it back (`said`), or later (`quiet`); and to the strings after it
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from media.ring import META
from media.timebase import MODEL_HZ, NS_PER_S, TURN_NS, TURN_SAMPLES
from model_server.batch import Batch
from model_server.bench.many_calls import one_core
from model_server.bench.worker import RETRY_S, START_S, Call, Worker
from model_server.engine.digits import DigitsEngine
from model_server.priority import ask_for_priority
from model_server.training import cases
from model_server.training.cases import Case
from model_server.training.corpus import DIGITS
from model_server.training.long_call import joined
from model_server.training.scores import errors

KILLED_AT_S, AFTER_S = 18.0, 16.0
"""Every log is full when it happens; the longest string that it falls into, and its answer, are over at the end."""
STRINGS = 32
SLOTS = 256
"""As `microturn up` has by default."""
LEAD_S, LEADS = 0.79, 16
"""Calls begin up to 12 s apart, so the kill finds them in every part of a string."""


def measure(
    checkpoint: Path, data: Path, calls: int, groups: int, *, must: bool = False, plot: Path | None = None
) -> dict[str, Any]:
    """So many calls, or, unless they `must`, as many as are admitted.

    `RuntimeError` when a server does not start or takes none.
    """
    callers = [_caller(cases.of(["paused"], STRINGS, data), number) for number in range(calls)]
    with tempfile.TemporaryDirectory() as folder, _servers(checkpoint, groups, Path(folder)) as servers:
        ask_for_priority()  # a feeder that is late would be taken for a server that is
        worker = Worker(servers.path, callers, must=must)
        callers = callers[: worker.admitted]
        worker.run(KILLED_AT_S)
        stats = worker.stats()
        killed_ns = servers.kill()
        worker.run(KILLED_AT_S + AFTER_S)
        rebuilt = worker.stats()
        worker.close()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    killed_s = (killed_ns - worker.begun_ns) / NS_PER_S
    undisturbed = _undisturbed(checkpoint, callers, round((KILLED_AT_S + AFTER_S) * NS_PER_S) // TURN_NS)
    result = {
        "calls": calls, "admitted": len(callers), "groups": groups, **_losses(callers, killed_ns),
        "turns_rebuilt": rebuilt["counters"]["turns_rebuilt_total"],
        "turns_not_rebuilt": rebuilt["counters"]["turns_not_rebuilt_total"],
        "missed_before": stats["counters"]["turns_missed_total"],
        "overdue_before": stats["counters"]["turns_overdue_total"],
        "missed_after": rebuilt["counters"]["turns_missed_total"],
        "overdue_after": rebuilt["counters"]["turns_overdue_total"],
        "answers": _answers(callers, undisturbed, killed_s),
    }  # fmt: skip
    for line in _table_lines(result):
        print(line)
    if plot is not None:
        _draw(result, plot)
    return result


def _caller(strings: list[Case], number: int) -> Call:
    lead_s = (number % LEADS) * LEAD_S
    case, parts = joined(strings, number, KILLED_AT_S + AFTER_S)
    pcm = np.concatenate([np.zeros(round(lead_s * MODEL_HZ), np.int16), case.caller])
    return Call(number, case.persona, pcm, tuple((lead_s + at_s, part) for at_s, part in parts))


class _Servers:
    """One that serves and one that waits, as `microturn up` keeps them."""

    def __init__(self, command: Sequence[str], path: Path) -> None:
        self.path = path
        self._serving = self._start(command)
        self._await_line(self._serving)
        self._spare = self._start([*command, "--spare"])
        self._await_spare()

    def kill(self) -> int:
        """SIGKILL of the one that serves; a thread wants the spare when it is gone. Monotonic ns of the kill."""
        threading.Thread(target=self._succeed, daemon=True).start()
        self._serving.send_signal(signal.SIGKILL)
        return time.monotonic_ns()

    def end(self) -> None:
        for process in (self._serving, self._spare):
            if process.poll() is None:
                process.kill()
            process.communicate()

    def _succeed(self) -> None:
        self._serving.wait()
        assert self._spare.stdin is not None
        self._spare.stdin.write("serve\n")
        self._spare.stdin.flush()

    @staticmethod
    def _start(command: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=one_core
        )

    @staticmethod
    def _await_line(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        if not process.stdout.readline().startswith("ready"):
            raise RuntimeError(f"the model server does not start: {process.args!r}")

    def _await_spare(self) -> None:
        title = Path(f"/proc/{self._spare.pid}/cmdline")
        until = time.monotonic() + START_S
        while b"spare model-server" not in title.read_bytes():
            if self._spare.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the spare model server does not get ready")
            time.sleep(RETRY_S)


@contextlib.contextmanager
def _servers(checkpoint: Path, groups: int, folder: Path) -> Iterator[_Servers]:
    path = folder / "model.sock"
    flags = {"checkpoint": checkpoint, "socket": path, "groups": groups, "slots": SLOTS}
    told = (f"--{name}={value}" for name, value in flags.items())
    servers = _Servers(
        [sys.executable, "-m", "model_server", "--engine=digits", *told, "--realtime-priority"], path
    )
    try:
        yield servers
    finally:
        servers.end()


def _undisturbed(checkpoint: Path, calls: Sequence[Call], turns: int) -> list[list[tuple[float, str]]]:
    """What an engine says to the same calls that nobody kills, by call; every reply is heard."""
    engine = DigitsEngine(checkpoint)
    said: list[list[tuple[float, str]]] = [[] for _ in calls]
    for call in calls:
        engine.open(call.number, call.persona)
    for turn in range(turns):
        meta = np.zeros(len(calls), META)
        meta["turn"], meta["played"] = turn, TURN_SAMPLES if turn > 1 else 0
        ats_s = [call.first_s + turn * TURN_NS / NS_PER_S for call in calls]
        pcm_BS = np.stack([call.sound(at_s) for call, at_s in zip(calls, ats_s, strict=True)])
        results = engine.step(Batch(turn * TURN_NS, np.arange(len(calls)), meta, pcm_BS))
        for b, reply in results.said.items():
            if reply.text:
                said[b].append((ats_s[b], reply.text))
    return said


def _losses(calls: Sequence[Call], killed_ns: int) -> dict[str, Any]:
    backs = [_first_after(call, killed_ns) for call in calls]
    gaps_s = sorted((at_ns - killed_ns) / NS_PER_S for at_ns in backs if at_ns is not None)
    since_ns = killed_ns - TURN_NS
    lost = [
        sum(tick_ns > since_ns and turn not in call.in_time_ns for turn, tick_ns in call.ticks_ns.items())
        for call in calls
    ]
    return {
        "calls_lost": backs.count(None),
        "gap_s": {"p50": round(float(np.median(gaps_s)), 2), "max": round(gaps_s[-1], 2)} if gaps_s else None,
        "turns_lost": {"p50": float(np.median(lost)), "max": max(lost)},
        "gaps_s": [round(gap_s, 2) for gap_s in gaps_s],
    }


def _first_after(call: Call, killed_ns: int) -> int | None:
    """Playout point of its first reply by the server that came after; None without one."""
    points = (at_ns for turn, at_ns in call.in_time_ns.items() if turn >= call.played_from)
    return min((at_ns for at_ns in points if at_ns > killed_ns), default=None)


def _answers(
    calls: Sequence[Call], undisturbed: Sequence[Sequence[tuple[float, str]]], killed_s: float
) -> dict[str, dict[str, Any]]:
    """By what the kill fell into: strings, share of their words that were said right, with and without the kill."""
    found: dict[str, list[tuple[list[str], list[str], tuple[str, ...]]]] = {}
    for call, others in zip(calls, undisturbed, strict=True):
        for start_s, part in call.parts:
            end_s = start_s + len(part.caller) / MODEL_HZ
            if end_s < killed_s or end_s > KILLED_AT_S + AFTER_S:
                continue
            words, wanted = _words(call.texts, start_s, end_s), _words(others, start_s, end_s)
            spoken_s = max((at_s for at_s, _ in others if start_s < at_s <= end_s), default=0.0)
            if start_s > killed_s:
                kind = "after"
            elif killed_s < start_s + part.end_s:
                kind = "heard"
            else:
                kind = "said" if killed_s < spoken_s else "quiet"
            found.setdefault(kind, []).append((words, wanted, part.expected))
    return {
        kind: {
            "strings": len(of),
            "right": _share([(words, expected) for words, _, expected in of]),
            "right_without": _share([(wanted, expected) for _, wanted, expected in of]),
            "as_without": round(sum(words == wanted for words, wanted, _ in of) / len(of), 3),
        }
        for kind in ("heard", "said", "quiet", "after")
        if (of := found.get(kind))
    }


def _words(texts: Sequence[tuple[float, str]], start_s: float, end_s: float) -> list[str]:
    words = "".join(text for at_s, text in texts if start_s < at_s <= end_s).split()
    return [str(DIGITS.index(word)) if word in DIGITS else word for word in words]


def _share(of: Sequence[tuple[Sequence[str], Sequence[str]]]) -> float:
    wrong = sum(min(len(expected), errors(words, expected)) for words, expected in of)
    count = sum(len(expected) for _, expected in of)
    return round(1 - wrong / count, 3)


def _table_lines(result: dict[str, Any]) -> Iterator[str]:
    gap, lost = result["gap_s"] or {"p50": None, "max": None}, result["turns_lost"]
    yield f"{'':14}{'median':>10}{'worst':>10}"
    yield f"{'gap, s':14}{gap['p50']!s:>10}{gap['max']!s:>10}"
    yield f"{'turns lost':14}{lost['p50']!s:>10}{lost['max']!s:>10}"
    yield f"calls lost {result['calls_lost']} of {result['admitted']}"
    yield f"turns rebuilt {result['turns_rebuilt']}, forgotten {result['turns_not_rebuilt']}"
    yield f"{'the kill fell':14}{'strings':>10}{'right':>10}{'without it':>12}{'the same':>10}"
    for kind, of in result["answers"].items():
        yield f"{kind:14}{of['strings']:>10}{of['right']:>10}{of['right_without']:>12}{of['as_without']:>10}"


def _draw(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (gaps, answers) = pyplot.subplots(1, 2, figsize=(9, 4))
    gaps.step(result["gaps_s"], np.arange(1, len(result["gaps_s"]) + 1), where="post")
    gaps.axvline(2.0, color="grey", label="goal")
    gaps.set(
        xlabel="s after the kill", ylabel="calls that are answered again", xlim=(0, None), ylim=(0, None)
    )
    gaps.legend()
    kinds = list(result["answers"])
    places = np.arange(len(kinds))
    for shift, name, label in ((-0.2, "right_without", "nobody killed"), (0.2, "right", "killed")):
        answers.bar(places + shift, [result["answers"][kind][name] for kind in kinds], 0.4, label=label)
    answers.set(xticks=places, xticklabels=kinds, ylabel="words right", ylim=(0, 1))
    answers.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
