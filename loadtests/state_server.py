"""The Redis or Valkey of a state load test: started, killed, started again, and looked into."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis

from gateway.state import embedded
from gateway.state.records import Cdr, decode

PATIENCE_S = 20.0
NAMESPACE = "microturn"


class StateServer:
    """On a unix socket in `folder`, with an append-only file, as `microturn up` has its own."""

    def __init__(self, folder: Path) -> None:
        program = embedded.find_server()
        if program is None:
            raise OSError(embedded.MISSING)
        self.folder = folder
        self.url = embedded.make_room(folder)
        self._command = embedded.command_line(program, folder)
        self._redis = redis.Redis(unix_socket_path=str(embedded.socket_of(folder)), socket_timeout=PATIENCE_S)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers. OSError when it does not."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdin=quiet, stdout=quiet, stderr=quiet)
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            try:
                self._redis.ping()
                return
            except (redis.RedisError, OSError):
                time.sleep(0.02)
        raise OSError("the state server did not start")

    def kill(self) -> None:
        """SIGKILL: nothing is said to anyone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """The end."""
        self._redis.close()
        self.kill()

    # -- what is in it

    def commands(self) -> tuple[int, int]:
        """Scripts, pings and whatever else gateways sent, by round trips; and all that scripts did inside."""
        stats: Any = self._redis.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in stats.items()}
        scripts = calls.get("eval", 0)
        ours = sum(calls.get(name, 0) for name in ("info", "ping", "config|resetstat"))
        return scripts, sum(calls.values()) - ours

    def memory_bytes(self) -> int:
        """Of data and clients, without the program."""
        told: Any = self._redis.info("memory")
        return int(told["used_memory"])

    def bytes_by_call(self) -> list[int]:
        """What the keys of each call take, by MEMORY USAGE with all their entries."""
        sums: dict[str, int] = {}
        for name in self._redis.scan_iter(match=f"{NAMESPACE}:{{[bt]-*", count=1000):
            call = name.decode().split(":")[1]
            used: Any = self._redis.memory_usage(name, samples=0)
            sums[call] = sums.get(call, 0) + int(used or 0)
        return list(sums.values())

    def leases(self) -> dict[str, str]:
        """Call -> the gateway that has it."""
        names = list(self._redis.scan_iter(match=f"{NAMESPACE}:{{*}}:lease", count=2000))
        held: Any = self._redis.mget(names) if names else []
        return {
            name.decode(): lease.split(b" ")[0].decode()
            for name, lease in zip(names, held, strict=True)
            if lease is not None
        }

    def records(self, part: str) -> list[bytes]:
        """Of all calls: `session`, or `cdr` row by row."""
        found: list[bytes] = []
        for name in self._redis.scan_iter(match=f"{NAMESPACE}:{{*}}:{part}", count=2000):
            row: Any = self._redis.hvals(name) if part == "cdr" else [self._redis.get(name)]
            found += [value for value in row if value is not None]
        return found


def ends_of_calls(**how: Any) -> dict[str, int]:
    """How the gateways of a Redis wrote down that calls ended, by reason; `open` are those without an end. `how` is
    redis-py's."""
    server = redis.Redis(**how)
    counted: Counter[str] = Counter()
    for name in server.scan_iter(match=f"{NAMESPACE}:{{*}}:cdr", count=2000):
        rows: Any = server.hvals(name)
        for row in rows:
            cdr = decode(Cdr, row)
            counted[cdr.reason if cdr.ended_ms else "open"] += 1
    server.close()
    return dict(sorted(counted.items()))
