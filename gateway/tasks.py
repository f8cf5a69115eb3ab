"""Work that runs beside a process's main one until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Tasks:
    """Of one process. What raises is a bug of ours: `broken` is told."""

    def __init__(self, broken: Callable[[BaseException], None]) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._broken = broken

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it until `cancel`."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Give up what is under way."""
        for task in list(self._running):
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        wrong = None if task.cancelled() else task.exception()
        if wrong is not None:
            self._broken(wrong)
