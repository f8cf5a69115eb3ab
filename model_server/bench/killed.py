"""Calls through SIGKILL of their model server: what each of them loses, and whether it is answered as if nothing was.

Two server processes with `digits` on one core: one serves, one is a spare (`--spare`) that takes over. One worker,
which does with its calls what the gateway's workers do: chunks before each tick, a log of each call's turns, and
after the death a lease with it at the next server. Each call plays strings of digits of unseen speakers, its own and
from a place of its own on, in real time. Afterwards the same calls are given to an engine that nobody kills.

    gap        from the kill to the playout point of the call's first reply that was published in time for it
    lost       turns from the kill on that got no reply in time
    answers    words that were said to the string that the kill fell into: while the caller spoke it (`heard`), while
               the model said it back (`said`), or later (`quiet`); and to the strings after it
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from media.chunk import PCM, Chunk, Flags, Reply
from media.leases import MAX_BYTES, Attached, Hello, Lease, Leased, Refused, Stats, StatsRequest, decode, encode
from media.leg import WAKE_NS
from media.ring import META
from media.slots import SlotTable
from media.timebase import FRAME_NS, MODEL_HZ, NS_PER_MS, NS_PER_S, TURN_NS, TURN_SAMPLES, tick_at_or_after
from media.turn_log import TurnLog
from model_server.batch import Batch
from model_server.bench.many_calls import CUT_NS, START_S, one_core
from model_server.engine.digits import DigitsEngine
from model_server.server import ask_for_priority
from model_server.training import cases
from model_server.training.cases import Case
from model_server.training.long_call import joined
from model_server.training.scores import errors

KILLED_AT_S, AFTER_S = 18.0, 16.0
"""Every log is full when it happens; the longest string that it falls into, and its answer, are over at the end."""
STRINGS = 32
LEAD_S, LEADS = 0.79, 16
"""Calls begin up to 12 s apart, so the kill finds them in every part of a string."""
RETRY_S, AGAIN_S = 0.05, 0.1
"""As the gateway's workers: between attempts to attach, and to lease."""
PATIENCE_S = 10.0
"""With the next server, before every call is lost."""


@dataclass(slots=True, eq=False)
class Call:
    """One caller, and what came of it."""

    number: int
    persona: str
    pcm: PCM
    """int16 [n], 16 kHz, from the worker's first moment on; silence after its end."""
    parts: tuple[tuple[float, Case], ...]
    """Its strings, each with the second that it begins at."""
    log: TurnLog = field(default_factory=TurnLog)
    leased: Leased | None = None
    floor: int = 0
    turn: int = 0
    """The next one."""
    first_s: float = 0.0
    """When its first turn was due."""
    ticks_ns: dict[int, int] = field(default_factory=dict)
    in_time_ns: dict[int, int] = field(default_factory=dict)
    """By turn, the playout point of its reply."""
    played_from: int = 0
    """The first turn of this tenancy: the playout began anew with it."""
    texts: list[tuple[float, str]] = field(default_factory=list)
    """What was said, and the second of the tick that it was said at."""

    def sound(self, at_s: float) -> PCM:
        """The 200 ms before that second."""
        end = round(at_s * MODEL_HZ)
        piece = self.pcm[max(0, end - TURN_SAMPLES) : max(0, end)]
        return piece if len(piece) == TURN_SAMPLES else np.pad(piece, (0, TURN_SAMPLES - len(piece)))

    def played(self, lag_samples: int) -> int:
        """Of its voice, since the turn before the next one was cut: the end of a reply, and most of the next."""
        before, older = self.turn - 1, self.turn - 2
        ours = [turn for turn in (before, older) if turn >= self.played_from and turn in self.in_time_ns]
        return (before in ours) * (TURN_SAMPLES - lag_samples) + (older in ours) * lag_samples


def lag_ns(budget_ns: int) -> int:
    """From a tick to the playout point of its reply: whole frames."""
    return -(-(budget_ns + WAKE_NS) // FRAME_NS) * FRAME_NS


def measure(checkpoint: Path, data: Path, calls: int, groups: int, plot: Path | None = None) -> dict[str, Any]:
    """So many calls, or as many as are admitted; `RuntimeError` when a server does not start or takes none."""
    callers = [_caller(cases.of(["paused"], STRINGS, data), number) for number in range(calls)]
    with tempfile.TemporaryDirectory() as folder, _servers(checkpoint, groups, Path(folder)) as servers:
        ask_for_priority()  # a feeder that is late would be taken for a server that is
        worker = Worker(servers.path, callers)
        callers = callers[: worker.admitted]
        worker.run(KILLED_AT_S, before_kill=True)
        stats = worker.stats()
        killed_ns = servers.kill()
        worker.run(KILLED_AT_S + AFTER_S)
        rebuilt = worker.stats()
        worker.close()
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


class Worker:
    """All calls of one worker, from its first lease on, through the deaths of its servers. One thread."""

    def __init__(self, path: Path, calls: Sequence[Call]) -> None:
        """`admitted` of them have a slot; `RuntimeError` when it is none."""
        self._path, self._calls = path, list(calls)
        self._by_slot: dict[int, Call] = {}
        self._again: list[tuple[float, Call]] = []
        self._stats: dict[str, Any] | None = None
        self.begun_ns = 0
        self._attach()
        for call in calls:
            self._ask(call)
            self._hear(self._connection.recv(MAX_BYTES))
            if call.leased is None:
                break
        self._again.clear()
        self._calls = [call for call in calls if call.leased is not None]
        self.admitted = len(self._calls)
        if not self.admitted:
            raise RuntimeError("the model server takes no call")
        self.begun_ns = tick_at_or_after(time.monotonic_ns() + TURN_NS, 0, self._table.groups)
        self._next_ns = [self.begun_ns + g * TURN_NS // self._table.groups for g in range(self._table.groups)]

    def run(self, until_s: float, *, before_kill: bool = False) -> None:
        """Until so many seconds after its first tick. `RuntimeError` when a server is away for too long."""
        until_ns = self.begun_ns + round(until_s * NS_PER_S)
        while True:
            group = min(range(len(self._next_ns)), key=self._next_ns.__getitem__)
            tick_ns = self._next_ns[group]
            if tick_ns >= until_ns:
                return
            self._listen(tick_ns - CUT_NS)
            if self._next_ns[group] != tick_ns:
                continue  # another server came meanwhile
            for call in self._calls:
                if call.leased is not None and call.leased.group == group:
                    self._cut(call, call.leased, tick_ns)
            self._next_ns[group] += TURN_NS

    def stats(self) -> dict[str, Any]:
        """What the server has counted so far."""
        self._stats = None
        self._connection.send(encode(StatsRequest()))
        while self._stats is None:
            self._listen(time.monotonic_ns() + 10 * NS_PER_MS)
        return self._stats

    def close(self) -> None:
        """Every call is over."""
        self._connection.close()
        self._table.close()
        for bell in self._bells:
            os.close(bell)

    def _cut(self, call: Call, leased: Leased, tick_ns: int) -> None:
        at_s = (tick_ns - self.begun_ns) / NS_PER_S
        if not call.turn:
            call.first_s = at_s
        lag = lag_ns(leased.budget_ns) * MODEL_HZ // NS_PER_S
        flags = Flags.NONE if call.turn else Flags.FIRST
        chunk = Chunk(
            leased.generation, call.turn, tick_ns, call.sound(at_s), played_samples=call.played(lag), flags=flags
        )  # fmt: skip
        call.ticks_ns[call.turn] = tick_ns
        self._table.put_chunk(leased.slot, chunk)
        call.log.add(chunk)
        call.turn += 1

    def _listen(self, until_ns: int) -> None:
        """Replies, answers to leases, and the end of the server, until then."""
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            ready, _, _ = select.select([self._connection, self._bells[1]], [], [], left_ns / NS_PER_S)
            if self._bells[1] in ready:
                self._take()
            if self._connection in ready:
                self._hear(self._received())
            now_s = time.monotonic()
            due = [call for at_s, call in self._again if at_s <= now_s]
            self._again = [(at_s, call) for at_s, call in self._again if at_s > now_s]
            for call in due:
                self._ask(call)

    def _received(self) -> bytes:
        try:
            return self._connection.recv(MAX_BYTES)
        except ConnectionError:
            return b""

    def _hear(self, packet: bytes) -> None:
        if not packet:
            self._come_back()
            return
        match decode(packet):
            case Leased() as leased:
                call = self._calls[int(leased.call)]
                call.leased, call.floor, call.played_from = leased, leased.generation, call.turn
                self._by_slot[leased.slot] = call
            case Refused(name, reason, _):
                print(f"call {name}: {reason}", flush=True)
                self._again.append((time.monotonic() + AGAIN_S, self._calls[int(name)]))
            case Stats(fields):
                self._stats = fields

    def _take(self) -> None:
        os.eventfd_read(self._bells[1])
        ring = self._table.outbound
        while len(slots := np.intersect1d(np.fromiter(self._by_slot, np.intp), ring.ready())):
            rows = ring.gather(slots)
            for slot, reply in zip(rows.slots, self._table.replies(rows), strict=True):
                self._replied(self._by_slot[int(slot)], reply)
            ring.advance(slots)

    def _replied(self, call: Call, reply: Reply) -> None:
        assert call.leased is not None
        if reply.generation != call.leased.generation:
            return
        call.log.answer(reply.turn)
        tick_ns = call.ticks_ns[reply.turn]
        if reply.stepped_ns <= tick_ns + call.leased.budget_ns + WAKE_NS:
            call.in_time_ns[reply.turn] = tick_ns + lag_ns(call.leased.budget_ns)
            if reply.text:
                call.texts.append(((tick_ns - self.begun_ns) / NS_PER_S, reply.text))

    def _come_back(self) -> None:
        """The server is gone: the next one, and every call's lease with its log."""
        self.close()
        self._by_slot.clear()
        for call in self._calls:
            call.leased = None
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._attach()
                break
            except OSError:
                if time.monotonic() > until:
                    raise RuntimeError(f"no model server within {PATIENCE_S} s") from None
                time.sleep(RETRY_S)
        groups = self._table.groups
        now_ns = time.monotonic_ns() + CUT_NS
        self._next_ns = [tick_at_or_after(now_ns, group, groups) for group in range(groups)]
        for call in self._calls:
            self._ask(call)

    def _attach(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        connection.settimeout(START_S)
        connection.send(encode(Hello("bench", os.getpid())))
        packet, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 3)
        assert isinstance(decode(packet), Attached), packet
        self._connection, self._bells = connection, descriptors[1:]
        self._table = SlotTable.attach(descriptors[0])

    def _ask(self, call: Call) -> None:
        past = call.log.pack()
        wish = Lease(str(call.number), call.floor, call.turn, call.persona, len(past))
        if not past:
            self._connection.send(encode(wish))
            return
        memory = os.memfd_create("microturn-log", os.MFD_CLOEXEC)
        try:
            os.write(memory, past)
            socket.send_fds(self._connection, [encode(wish)], [memory])
        finally:
            os.close(memory)


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
            raise RuntimeError(f"the model server does not start: {process.args}")

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
    flags = {"engine": "digits", "checkpoint": checkpoint, "socket": path, "groups": groups}
    told = (f"--{name}={value}" for name, value in flags.items())
    servers = _Servers([sys.executable, "-m", "model_server", *told, "--realtime-priority"], path)
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
    backs = [
        min((at_ns for at_ns in call.in_time_ns.values() if at_ns > killed_ns and _is_of_heir(call, at_ns)), default=None)
        for call in calls
    ]  # fmt: skip
    gaps_s = sorted((at_ns - killed_ns) / NS_PER_S for at_ns in backs if at_ns is not None)
    lost = [
        sum(turn not in call.in_time_ns for turn, tick_ns in call.ticks_ns.items() if tick_ns > killed_ns - TURN_NS)
        for call in calls
    ]  # fmt: skip
    return {
        "calls_lost": backs.count(None),
        "gap_s": {"p50": round(float(np.median(gaps_s)), 2), "max": round(gaps_s[-1], 2)} if gaps_s else None,
        "turns_lost": {"p50": float(np.median(lost)), "max": max(lost)},
        "gaps_s": [round(gap_s, 2) for gap_s in gaps_s],
    }


def _is_of_heir(call: Call, at_ns: int) -> bool:
    """A playout point of the newest tenancy."""
    return at_ns >= call.ticks_ns.get(call.played_from, 1 << 62)


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
    return [str(cases.DIGITS.index(word)) if word in cases.DIGITS else word for word in words]


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
    gaps.set(xlabel="s after the kill", ylabel="calls that are answered again", xlim=(0, None), ylim=(0, None))
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
