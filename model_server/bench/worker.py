"""A worker with calls of recordings instead of people, which does with them what the gateway's workers do.

Chunks before each tick, a log of each call's turns; after the death of the model server a lease with it at the next
one. Turns stand still meanwhile; what callers say then is lost.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from media.chunk import PCM, Chunk, Flags, Reply, VideoFrame
from media.leases import (
    MAX_BYTES,
    Attached,
    Hello,
    Lease,
    Leased,
    Refused,
    Stats,
    StatsRequest,
    decode,
    encode,
)
from media.slots import SlotTable
from media.timebase import FRAME_NS, MODEL_HZ, NS_PER_MS, NS_PER_S, TURN_NS, TURN_SAMPLES, tick_at_or_after
from media.turn_log import TurnLog
from model_server.training.cases import Case

Picture = npt.NDArray[np.uint8]
"""uint8 [height, width, 3]."""

CUT_NS = 5 * NS_PER_MS
"""Before a tick: when its chunks are put."""
WAKE_NS = 8 * NS_PER_MS
"""As in `media/leg.py`: between a reply's publishing and its first frame."""
START_S = 120.0
RETRY_S, AGAIN_S = 0.05, 0.1
"""As the gateway's workers: between attempts to attach, and to lease."""
PICTURE_EVERY = 5
"""Turns: one picture a second."""
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
    delays_ns: dict[int, int] = field(default_factory=dict)
    """By turn, from its tick until its reply was published."""
    pictures: Sequence[Picture] = ()
    """Shown to the model, one every `PICTURE_EVERY` turns, round and round; of the size of the server's table."""
    played_from: int = 0
    """The first turn of this tenancy: the playout began anew with it."""
    texts: list[tuple[float, str]] = field(default_factory=list)
    """What was said, and the second of the tick that it was said at."""

    def sound(self, at_s: float) -> PCM:
        """The 200 ms before that second."""
        end = round(at_s * MODEL_HZ)
        piece = self.pcm[max(0, end - TURN_SAMPLES) : max(0, end)]
        return piece if len(piece) == TURN_SAMPLES else np.pad(piece, (0, TURN_SAMPLES - len(piece)))

    def seen(self) -> Picture | None:
        """The picture that goes with the next turn."""
        if not self.pictures or self.turn % PICTURE_EVERY:
            return None
        return self.pictures[self.turn // PICTURE_EVERY % len(self.pictures)]

    def played(self, lag_samples: int) -> int:
        """Of its voice, since the turn before the next one was cut: the end of a reply, and most of the next."""
        before, older = self.turn - 1, self.turn - 2
        ours = [turn for turn in (before, older) if turn >= self.played_from and turn in self.in_time_ns]
        return (before in ours) * (TURN_SAMPLES - lag_samples) + (older in ours) * lag_samples


def lag_ns(budget_ns: int) -> int:
    """From a tick to the playout point of its reply: whole frames."""
    return -(-(budget_ns + WAKE_NS) // FRAME_NS) * FRAME_NS


class Worker:
    """All calls of one worker, from its first lease on, through the deaths of its servers. One thread."""

    def __init__(self, path: Path, calls: Sequence[Call], *, must: bool = False) -> None:
        """`admitted` of them have a slot; `RuntimeError` when it is none.

        `must`: they come as calls that go on, which are taken whatever is predicted.
        """
        self._path, self._calls = path, list(calls)
        self._by_slot: dict[int, Call] = {}
        self._again: list[tuple[float, Call]] = []
        self._stats: dict[str, Any] | None = None
        self.begun_ns = 0
        self._attach()
        for call in calls:
            call.floor = int(must)
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

    def run(self, until_s: float) -> None:
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
        seen = call.seen()
        chunk = Chunk(
            leased.generation, call.turn, tick_ns, call.sound(at_s), played_samples=call.played(lag), flags=flags,
            video=() if seen is None else (VideoFrame(tick_ns, seen),),
        )  # fmt: skip
        call.ticks_ns[call.turn] = tick_ns
        self._table.put_chunk(leased.slot, chunk)
        call.log.add(chunk)
        call.turn += 1

    def _listen(self, until_ns: int) -> None:
        """Replies, answers to leases, and the end of the server, until then."""
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            ours = self._connection.fileno()
            ready, _, _ = select.select([ours, self._bells[1]], [], [], left_ns / NS_PER_S)
            if self._bells[1] in ready:
                self._take()
            if ours in ready:
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
        call.delays_ns[reply.turn] = reply.stepped_ns - tick_ns
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
