"""Worker processes that have their modules loaded and wait: one of each kind, for the next that dies.

Loading takes half a second to a second, binding ports and making the library ready some milliseconds; so a worker
that was killed is back before its callers have dialled again. Every worker gets its options as one line of JSON on
its standard input, whether it waited as a spare or not: `options_line` is its end of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from setproctitle import setproctitle


def options_line(kind: str) -> bytes:
    """In the worker, once its modules are loaded: wait to be wanted. Ends the process when nobody wants it."""
    setproctitle(f"microturn: spare {kind}")
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    return line


class Spares:
    """The spare processes of one main process, by module."""

    def __init__(self) -> None:
        self._waiting: dict[str, Process] = {}
        self._closed = False

    async def start(self, module: str, options: bytes) -> Process:
        """A worker with these options: the spare, or, without one, a new process."""
        process = self._waiting.pop(module, None)
        if process is None or process.returncode is not None:
            process = await self._make(module)
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it died: whoever keeps it alive will see
            process.stdin.write(options + b"\n")
            await process.stdin.drain()
        process.stdin.close()
        return process

    async def provide(self, module: str) -> None:
        """One waits from now on."""
        waiting = self._waiting.get(module)
        if self._closed or (waiting is not None and waiting.returncode is None):
            return
        process = await self._make(module)
        if self._closed or module in self._waiting:
            _dismiss(process)
        else:
            self._waiting[module] = process

    def close(self) -> None:
        """Nobody is wanted any more; the spares of a main process that was killed see it, too."""
        self._closed = True
        for process in self._waiting.values():
            _dismiss(process)
        self._waiting.clear()

    async def _make(self, module: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, stdin=PIPE, stdout=DEVNULL, start_new_session=True
        )


def _dismiss(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
