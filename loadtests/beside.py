"""A load generator in a process of its own, beside calls whose time is kept in this one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any


async def run(module: str, *arguments: str, nice: int = 0) -> tuple[int, dict[str, Any]]:
    """`python -m MODULE ...` to its end: exit status, and the JSON of its last line; {} where it has none.

    It has normal scheduling, `nice` steps behind everything that is measured.
    """

    def as_others() -> None:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.nice(nice)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=as_others,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    assert process.returncode is not None
    lines = output.decode().splitlines()
    told: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return process.returncode, told
