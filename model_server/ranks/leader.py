"""Rank 0: an engine like any other to the model server, which tells the other ranks every call before it does it.

The others are its child processes. When one of them ends or is stuck, this process ends (`watch.py`): whoever
watches the model server starts it anew, and it starts them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Self

import structlog
import torch

from media.timebase import NS_PER_S
from model_server.batch import Batch, Results
from model_server.model.served.products import dtype_of
from model_server.ranks.collectives import Meter
from model_server.ranks.engine import EngineOptions, engine_of
from model_server.ranks.memory import RankMemory
from model_server.ranks.plan import (
    Age,
    Close,
    Open,
    Plan,
    Repeat,
    Step,
    Warm,
    held_still,
    without_pictures,
    write,
)
from model_server.ranks.watch import SILENCE_NS, Watch

START_PATIENCE_S = 120
NOTICE = struct.Struct("<q")
"""Of a plan: its number. A rank says its own number with it when it is ready."""
WARM_PATIENCE_NS = 60 * NS_PER_S
"""Of silence while code is made for all numbers of rows: nothing is summed meanwhile."""
_LOOK_AGAIN_S = 50e-6

log = structlog.get_logger()


class RankedEngine:
    """`digits` on several processes of this machine; made in the thread that outlives it."""

    name = "digits"

    def __init__(self, options: EngineOptions, ranks: int) -> None:
        """`ValueError` says what cannot be had, before or while the others start."""
        products = str(_products_of(options, ranks)).removeprefix("torch.")
        self._options = options = dataclasses.replace(options, products=products)
        self._memory = RankMemory.create(ranks)
        self._collectives = options.collectives_of(self._memory)
        self._engine = engine_of(options, 0, ranks, self._collectives)
        self.config, self._meter = self._engine.config, self._collectives.meter
        self.most_passes, self.most_positions = self._engine.most_passes, self._engine.most_positions
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._sockets: dict[int, socket.socket] = {}
        self.pictures_shed_total = 0
        """Steps that were told without their pictures, because they did not fit."""
        try:
            self._meet()
        except ValueError:
            self._end_all()
            raise
        self._watch = Watch(self._memory, self._processes)
        log.info("ranks ready", ranks=ranks, products=products, sums_a_pass=self._engine.plan.sums_a_pass)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def meter(self) -> Meter:
        """What the sums of this rank cost."""
        return self._meter

    @property
    def processes(self) -> list[int]:
        """Process ids of the other ranks, rank 1 first."""
        return [self._processes[rank].pid for rank in sorted(self._processes)]

    @property
    def gauges(self) -> Mapping[str, int]:
        """Of the engine on this rank, and of its sums."""
        return {**self._engine.gauges, **self._meter.gauges}

    @property
    def kept_bytes_a_call(self) -> int:
        """On this rank."""
        return self._engine.kept_bytes_a_call

    def open(self, slot: int, persona: str) -> None:
        """As `Engine.open`: what this rank refuses, the others are not told of."""
        self._engine.open(slot, persona)
        self._memory.finish(self._tell(Open(slot, persona)))

    def step(self, batch: Batch) -> Results:
        """As `Engine.step`."""
        batch = held_still(batch)
        try:
            number = self._tell(Step(batch))
        except ValueError:
            batch = without_pictures(batch)
            self.pictures_shed_total += 1
            number = self._tell(Step(batch))
        results = self._engine.step(batch)
        self._memory.finish(number)
        return results

    def pictures(self, slot: int) -> int:
        """As `Engine.pictures`."""
        return self._engine.pictures(slot)

    def check(self) -> list[str]:
        """As `Engine.check`, of this rank."""
        return self._engine.check()

    def close(self, slot: int) -> None:
        """As `Engine.close`."""
        number = self._tell(Close(slot))
        self._engine.close(slot)
        self._memory.finish(number)

    def repeat(self, slot: int) -> None:
        """As `DigitsEngine.repeat`."""
        number = self._tell(Repeat(slot))
        self._engine.repeat(slot)
        self._memory.finish(number)

    def warm(self, calls: int) -> None:
        """As `Engine.warm`, on every rank."""
        number = self._tell(Warm(calls), WARM_PATIENCE_NS)
        self._engine.warm(calls)
        self._memory.finish(number)

    def age(self, slot: int, positions: int) -> int:
        """As `DigitsEngine.age`."""
        number = self._tell(Age(slot, positions))
        further = self._engine.age(slot, positions)
        self._memory.finish(number)
        return further

    def end(self) -> None:
        """All ranks but this one end; nothing more is asked of it."""
        self._watch.stop()
        self._end_all()
        self._memory.close()

    def _tell(self, plan: Plan, patience_ns: int = SILENCE_NS) -> int:
        memory = self._memory
        while any(memory.done(rank) < memory.given for rank in self._processes):
            # They read the last plan where it lies; the watch sees to those who never do.
            time.sleep(_LOOK_AGAIN_S)
        write(plan, memory.plan)
        number = memory.give(patience_ns)
        for connection in self._sockets.values():
            with contextlib.suppress(
                OSError
            ):  # it is gone: the watch says who and why, and ends this process
                connection.send(NOTICE.pack(number))
        return number

    def _meet(self) -> None:
        """All others are started, and sums are set up with them; `ValueError` where that cannot be."""
        others = range(1, self._memory.ranks)
        for rank in others:
            self._start(rank)
        for rank in others:
            self._await(rank)
        try:
            self._collectives.connect()
        except RuntimeError as wrong:
            raise ValueError(f"ranks = {self._memory.ranks}: they could not be connected: {wrong}") from wrong

    def _start(self, rank: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets[rank] = ours
        descriptors = (self._memory.descriptor, theirs.fileno(), self._memory.meeting)
        told = {
            **{"rank": rank, "ranks": self._memory.ranks, "leader": os.getpid()},
            **{"memory": descriptors[0], "socket": descriptors[1], "meeting": descriptors[2]},
            **dataclasses.asdict(self._options),
        }
        command = [sys.executable, "-m", "model_server.ranks", *(f"--{k}={v}" for k, v in told.items())]
        self._processes[rank] = subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL)
        theirs.close()

    def _await(self, rank: int) -> None:
        """Until it is ready."""
        connection = self._sockets[rank]
        connection.settimeout(START_PATIENCE_S)
        try:
            said = connection.recv(NOTICE.size)
        except TimeoutError:
            said = b""
        if said != NOTICE.pack(rank):
            status = self._processes[rank].poll()
            ending = "did not get ready" if status is None else f"ended with {status} while it started"
            raise ValueError(f"rank {rank} (process {self._processes[rank].pid}) {ending}: its log says why")

    def _end_all(self) -> None:
        self._collectives.close()
        for connection in self._sockets.values():
            connection.close()
        for process in self._processes.values():
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def _products_of(options: EngineOptions, ranks: int) -> torch.dtype:
    """What all of them multiply in; `ValueError` where a rank has no GPU."""
    if not options.device:
        return dtype_of(options.products)
    from model_server.model.device.chosen import device_of, dtype_of_weights

    asked = None if options.products == "auto" else dtype_of(options.products)
    devices = [device_of(str(options.device_of(rank))) for rank in range(ranks)]
    return dtype_of_weights(devices[0], asked)
