"""A model server as a process, and a worker that talks to it as the real ones do."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from media.chunk import Chunk, Flags, Reply
from media.leases import MAX_BYTES, Attached, Hello, Lease, Leased, Message, Refused, decode, encode
from media.slots import SlotTable
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS, TURN_SAMPLES, tick_at_or_after

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


class ServerProcess:
    """`python -m model_server`, serving."""

    def __init__(self, path: Path, slots: int = 8, more: tuple[str, ...] = ()) -> None:
        self.path = path
        command = [sys.executable, "-m", "model_server", "--engine", "echo", *more]
        self.popen = subprocess.Popen(
            [*command, "--socket", str(path), "--slots", str(slots)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.popen.stdout
        ready, _, _ = select.select([self.popen.stdout], [], [], PATIENCE_S)
        self.said = self.popen.stdout.readline().decode() if ready else ""

    def end(self, number: int) -> int:
        """Send the signal, wait, close; the exit status."""
        self.popen.send_signal(number)
        return self.await_end()

    def lose_keeper(self) -> None:
        """As the kernel does when it dies."""
        assert self.popen.stdin
        self.popen.stdin.close()

    def await_end(self) -> int:
        """Wait until it ends by itself; the exit status."""
        status = self.popen.wait(PATIENCE_S)
        assert self.popen.stdin and self.popen.stdout
        self.popen.stdin.close()
        self.popen.stdout.close()
        return status


class Worker:
    """One control connection with its table and doorbells."""

    def __init__(self, path: Path, name: str = "test-0") -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE_S)
        try:
            self.sock.connect(str(path))
        except OSError:
            self.sock.close()
            raise
        self.sock.send(encode(Hello(name, os.getpid())))
        packet, fds, _, _ = socket.recv_fds(self.sock, MAX_BYTES, 3)
        assert len(fds) == 3
        attached = decode(packet)
        assert isinstance(attached, Attached)
        self.attached = attached
        self.table = SlotTable.attach(fds[0])
        self.bells = fds[1:]

    def ask(self, message: Message) -> Message:
        self.sock.send(encode(message))
        return decode(self.sock.recv(MAX_BYTES))

    def ask_with_log(self, wish: Lease, past: bytes) -> Message:
        """A lease that brings the packed log of the call's turns."""
        memory = os.memfd_create("log")
        os.write(memory, past)
        socket.send_fds(self.sock, [encode(replace(wish, log=len(past)))], [memory])
        os.close(memory)
        return decode(self.sock.recv(MAX_BYTES))

    def lease(self, call: str, floor: int = 0) -> Leased:
        answer = self.ask(Lease(call, floor))
        assert isinstance(answer, Leased), answer
        return answer

    def lease_when_rested(self, call: str) -> Leased:
        """Ask again until a slot is free: bounded."""
        until = time.monotonic() + PATIENCE_S
        while isinstance(answer := self.ask(Lease(call)), Refused):
            assert time.monotonic() < until, answer
            time.sleep(0.05)
        assert isinstance(answer, Leased)
        return answer

    def talk(self, leased: Leased, turns: int, first: int = 0) -> list[Reply]:
        """Send numbered chunks 20 ms ahead of the call's ticks; the replies, as the doorbell tells of them."""
        replies: list[Reply] = []
        tick_ns = tick_at_or_after(time.monotonic_ns() + 60 * NS_PER_MS, leased.group, self.table.groups)
        for n in range(turns):
            self._listen(leased, replies, tick_ns + n * TURN_NS - 20 * NS_PER_MS)
            turn = first + n
            pcm = np.full(TURN_SAMPLES, turn + 1, np.int16)
            flags = Flags.FIRST if turn == 0 else Flags.NONE
            now_ns = time.monotonic_ns()
            chunk = Chunk(leased.generation, turn, now_ns, pcm, text=f"turn {turn}", flags=flags)
            assert self.table.put_chunk(leased.slot, chunk)
        self._listen(leased, replies, tick_ns + turns * TURN_NS - 20 * NS_PER_MS)
        return replies

    def _listen(self, leased: Leased, replies: list[Reply], until_ns: int) -> None:
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            if not select.select([self.bells[1]], [], [], left_ns / NS_PER_S)[0]:
                return
            os.eventfd_read(self.bells[1])
            slots = np.array([s for s in self.table.outbound.ready() if s == leased.slot], np.intp)
            while len(slots):
                replies += self.table.replies(self.table.outbound.gather(slots))
                self.table.outbound.advance(slots)
                slots = slots[self.table.outbound.head[slots] != self.table.outbound.tail[slots]]

    def close(self) -> None:
        self.sock.close()
        for fd in self.bells:
            os.close(fd)
        self.bells = []
        self.table.close()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers on one path; what still runs at the end is killed."""
    servers: list[ServerProcess] = []

    def start(*more: str, slots: int = 8) -> ServerProcess:
        servers.append(ServerProcess(tmp_path / "run" / "model.sock", slots, more))
        return servers[-1]

    yield start
    for server in servers:
        if server.popen.poll() is None:
            server.end(9)
        else:
            server.await_end()


@pytest.fixture
def attach() -> Iterator[Callable[..., Worker]]:
    """Attaches workers; those that are still connected at the end are closed."""
    workers: list[Worker] = []

    def make(server: ServerProcess | Path, name: str = "test-0") -> Worker:
        workers.append(Worker(server if isinstance(server, Path) else server.path, name))
        return workers[-1]

    yield make
    for worker in workers:
        if worker.bells:
            worker.close()
