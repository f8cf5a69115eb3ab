"""Probe calls in the main process: when one is placed, who is one, and what became of it.

A probe calls a name that is made anew at each start, known to this process and to who may read `run_dir`: so nobody
outside can have a call that is not written down. One rule: a probe never takes a place that somebody else
might want. It is admitted only while more places than `reserve` are free, and hangs up when half of these are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.probe.command import ADDRESS
from gateway.probe.place import Outcome, Reason
from gateway.rules import Ruling

log = structlog.get_logger()

FIRST_S: Final = 15.0
"""After the start, or a whole period where that is less."""
LIMIT_S: Final = 60.0
"""A probe's process that takes longer is killed."""
LOOK_S: Final = 0.25
GRACE_S: Final = 3.0
RESERVE_SHARE: Final = 10
"""A tenth of the places, at least one."""


@dataclass(slots=True)
class ProbeCounters:
    """Since the start of this process."""

    admitted: int = 0
    """Probe calls that were let in, whoever placed them: they are among all calls of workers."""
    scored: int = 0
    put_off: int = 0
    """There was not enough room."""
    unreachable: int = 0
    refused: int = 0
    no_media: int = 0
    unheard: int = 0
    cut: int = 0
    unscored: int = 0
    timeout: int = 0
    broken: int = 0

    def fail(self, reason: Reason) -> None:
        """One without a score."""
        name = reason.replace("-", "_")
        setattr(self, name, getattr(self, name) + 1)


class ProbeDesk:
    """Of one gateway that may be probed. `room` is how many telephone calls would be taken now."""

    def __init__(
        self,
        engine: str,
        codecs: Sequence[str],
        every_s: float,
        places: int,
        run_dir: Path,
        room: Callable[[], int],
        *,
        realtime: bool = False,
    ) -> None:
        """`engine` answers; `every_s` 0 is no probe but those of others; `places` are all of
        telephones; `realtime` as in `place.probe`."""
        self.counters = ProbeCounters()
        self.ruling = Ruling("probe", engine=engine, called="probe")
        """What becomes of a probe call."""
        self._name = f"probe-{secrets.token_hex(16)}"
        self._codecs, self._every_s = codecs, every_s
        self._reserve = max(1, places // RESERVE_SHARE)
        self._run_dir, self._room = run_dir, room
        self._last: dict[str, tuple[Outcome, float]] = {}
        self._yielded = False
        """The probe that runs was refused, or hung up, for want of room."""
        self._flags = ("--realtime",) if realtime else ()
        self.command: Sequence[str] = (sys.executable, "-m", "gateway.probe")
        """What places one, with `--run-dir`, `--codec` and `--realtime` behind it; its last line is an `Outcome` as
        JSON."""

    # -- calls that come

    def knows(self, called: str) -> bool:
        """Whether who calls that name is a probe."""
        return secrets.compare_digest(called.encode(), self._name.encode())

    def admit(self) -> bool:
        """Whether there is room for one now; it is counted."""
        if self._room() <= self._reserve:
            self._yielded = True
            return False
        self.counters.admitted += 1
        return True

    # -- calls of ours

    def open(self, host: str, port: int) -> None:
        """Probes reach the edge there: who may read `run_dir` learns it."""
        path = self._run_dir / ADDRESS
        path.unlink(missing_ok=True)
        shown = f"[{host}]" if ":" in host else host
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"sip:{self._name}@{shown}:{port}\n")

    def close(self) -> None:
        """No more of them."""
        (self._run_dir / ADDRESS).unlink(missing_ok=True)

    async def run(self) -> None:
        """One with each codec every `every_s`, until cancelled."""
        if not self._every_s:
            return
        await asyncio.sleep(min(FIRST_S, self._every_s))
        while True:
            begun_s = time.monotonic()
            for codec in self._codecs:
                await self.once(codec)
            await asyncio.sleep(max(0.0, begun_s + self._every_s - time.monotonic()))

    async def once(self, codec: str) -> Outcome | None:
        """Place one, and note what became of it; None when it was put off."""
        self._yielded = False
        outcome = await self._place(codec) if self._room() > self._reserve else None
        if outcome is None or (self._yielded and outcome.reason is not None):
            self.counters.put_off += 1
            return None
        if outcome.reason is None:
            self.counters.scored += 1
            self._last[codec] = outcome, time.time()
        else:
            self.counters.fail(outcome.reason)
            self._last.pop(codec, None)  # what was once is not shown as if it were so
            log.warning("probe failed", codec=codec, reason=outcome.reason, detail=outcome.detail)
        return outcome

    def gauges(self) -> dict[str, float]:
        """Of the last probe of each codec, where it has a score."""
        told: dict[str, float] = {}
        for codec, (outcome, at_s) in self._last.items():
            told[f"probe_timestamp:{codec}"] = at_s
            told[f"probe_pesq_mos:{codec}"] = outcome.mos or 0.0
            told[f"probe_delay_ms:{codec}"] = outcome.delay_ms or 0.0
            told[f"probe_missing:{codec}"] = outcome.missing or 0.0
        return told

    async def _place(self, codec: str) -> Outcome:
        argv = [*self.command, f"--run-dir={self._run_dir}", f"--codec={codec}", *self._flags]
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=DEVNULL, stdout=PIPE, start_new_session=True
        )
        talking = asyncio.ensure_future(process.communicate())
        try:
            async with asyncio.timeout(LIMIT_S):
                while not talking.done():
                    await asyncio.wait([talking], timeout=LOOK_S)
                    if self._room() <= self._reserve // 2 and not self._yielded:
                        self._yielded = True
                        _tell(process)
            told, _ = talking.result()
        except TimeoutError:
            return Outcome(codec, "timeout", f"no outcome within {LIMIT_S:g} s")
        finally:
            await _end(process, talking)
        try:
            return msgspec.json.decode(told.splitlines()[-1], type=Outcome)
        except (IndexError, msgspec.DecodeError):
            return Outcome(codec, "broken", f"its process ended with {process.returncode}")


def _tell(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


async def _end(process: Process, talking: asyncio.Future[tuple[bytes, bytes]]) -> None:
    """Gone for good, whatever has happened: SIGTERM lets it hang up."""
    if process.returncode is None:
        _tell(process)
        await asyncio.wait([talking], timeout=GRACE_S)
    if process.returncode is None:
        process.kill()
    with contextlib.suppress(asyncio.CancelledError):
        await talking
