"""Recordings whose calls are over: finished, uploaded, deleted when their time has come. One process of a gateway.

    live/*.part --finish (`finish.py`)--> done/* --`Bucket.put`, seen there--> deleted here
                                          done/* --`recording_keep_days`--> deleted

It looks once in `LOOK_S`, works at one file after another and is nice: whatever it is busy with waits nobody
for. It begins with what others left, a worker that died as well as a keeper. Its counters are in `keeper.json`,
and go on where they were; the gateway's main process shows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.reading import read_json
from gateway.recording.finish import NEW, Format, finish
from gateway.recording.keys import Keyring
from gateway.recording.s3 import Bucket, NotUploaded, digest_of
from gateway.recording.writer import ENDING

log = structlog.get_logger()

LOOK_S: Final = 2.0
FIRST_RETRY_S, LAST_RETRY_S = 2.0, 900.0
MOST_TRIES: Final = 100
"""About a day; then a file waits for the keeper's next start, or for its end."""
STATE: Final = "keeper.json"
_DAY_S: Final = 86_400.0


@dataclass(slots=True)
class Counters:
    """Since the first keeper of this folder."""

    finished: int = 0
    repaired: int = 0
    """Their writer had died, or the power was cut."""
    empty: int = 0
    """Their writer had died before anything was recorded: nothing is left of them."""
    unfinished: int = 0
    """Attempts that failed: of a disk that is full, of a key that is not here."""
    uploaded: int = 0
    uploaded_bytes: int = 0
    upload_tries_failed: int = 0
    uploads_given_up: int = 0
    """Until the keeper's next start."""
    expired: int = 0
    """Deleted since `recording_keep_days` are over."""
    expired_not_uploaded: int = 0
    """Of them, those that were to be uploaded before."""


@dataclass(slots=True)
class _Trouble:
    """A file that something went wrong with."""

    tries: int
    again_s: float
    """Unix; infinite when it was given up."""


class Keeper:
    """Of one folder. `unix_s` is the wall clock."""

    def __init__(
        self, folder: Path, form: Format, keyring: Keyring, keep_days: int, bucket: Bucket | None = None,
        unix_s: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.counters = read_counters(folder)
        self._folder, self._form, self._keyring, self._keep_days = folder, form, keyring, keep_days
        self._bucket, self._unix_s = bucket, unix_s
        self._troubles: dict[Path, _Trouble] = {}  # no more than there are files

    async def run(self) -> None:
        """Until cancelled."""
        for torn in (self._folder / "done").glob("*" + NEW):  # a keeper before us died over it
            torn.unlink()
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """All that is due now."""
        before = msgspec.json.encode(self.counters)
        for part in sorted((self._folder / "live").glob("*" + ENDING)):
            if self._may_try(part):
                await self._finish(part)
        done = sorted((self._folder / "done").iterdir())
        for path in done:
            if self._bucket is not None and path.suffix != NEW and self._may_try(path):
                await self._upload(self._bucket, path)
        for path in done:
            self._expire(path)
        self._troubles = {path: trouble for path, trouble in self._troubles.items() if path.exists()}
        if msgspec.json.encode(self.counters) != before:
            _write_counters(self._folder, self.counters)

    async def _finish(self, part: Path) -> None:
        try:
            finished = await asyncio.to_thread(finish, part, self._folder / "done", self._form, self._keyring)
        except (OSError, ValueError) as wrong:
            self.counters.unfinished += 1
            self._trouble(part, f"recording not finished: {wrong}")
            return
        if finished is None:
            return
        if finished.path is None:
            self.counters.empty += 1
            return
        self.counters.finished += 1
        self.counters.repaired += finished.repaired
        seconds, repaired = round(finished.seconds, 1), finished.repaired
        log.info("recording finished", file=finished.path.name, seconds=seconds, repaired=repaired)

    async def _upload(self, bucket: Bucket, path: Path) -> None:
        try:
            digest = await asyncio.to_thread(digest_of, path)
            await bucket.put(path, digest)
        except (NotUploaded, OSError) as wrong:
            self.counters.upload_tries_failed += 1
            is_final = isinstance(wrong, NotUploaded) and wrong.is_final
            if self._trouble(path, f"recording not uploaded: {wrong}", is_final=is_final):
                self.counters.uploads_given_up += 1
            return
        path.unlink()
        self.counters.uploaded += 1
        self.counters.uploaded_bytes += digest.size
        log.info("recording uploaded", file=path.name, bytes=digest.size)

    def _expire(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            age_s = self._unix_s() - path.stat().st_mtime
            if self._keep_days and age_s > self._keep_days * _DAY_S:
                path.unlink()
                self.counters.expired += 1
                self.counters.expired_not_uploaded += self._bucket is not None
                log.info("recording deleted: its time is over", file=path.name, days=self._keep_days)

    def _may_try(self, path: Path) -> bool:
        trouble = self._troubles.get(path)
        return trouble is None or self._unix_s() >= trouble.again_s

    def _trouble(self, path: Path, text: str, *, is_final: bool = False) -> bool:
        """Again later, and later and later; whether it is given up now."""
        before = self._troubles.get(path)
        tries = before.tries + 1 if before is not None else 1
        given_up = is_final or tries >= MOST_TRIES
        wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(tries - 1, 16))
        self._troubles[path] = _Trouble(tries, float("inf") if given_up else self._unix_s() + wait_s)
        if tries == 1 or given_up:  # not each time
            log.error(text, file=path.name, tries=tries, again_in_s=None if given_up else wait_s)
        return given_up


def delete_of(folder: Path, calls: Iterable[str]) -> int:
    """All recordings of these calls that are in this folder, of those that live, too; how many files."""
    deleted = 0
    for call in calls:
        for path in (path for part in ("live", "done") for path in (folder / part).glob(f"*-{call}.*")):
            path.unlink(missing_ok=True)
            deleted += 1
    return deleted


def backlog(folder: Path, *, uploads: bool, unix_s: float) -> dict[str, float]:
    """What is not done yet of a folder, as gauges; a file in `done` waits only where some store is to have it."""
    unfinished = sum(entry.name.endswith(ENDING) for entry in _entries(folder / "live"))
    since_s: list[float] = []
    for entry in _entries(folder / "done") if uploads else ():
        with contextlib.suppress(FileNotFoundError):
            if not entry.name.endswith(NEW):
                since_s.append(entry.stat().st_mtime)
    return {
        "recordings_unfinished": float(unfinished),
        "recordings_to_upload": float(len(since_s)),
        "recordings_to_upload_oldest_seconds": max(0.0, unix_s - min(since_s, default=unix_s)),
    }


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def read_counters(folder: Path) -> Counters:
    """As they were; zero where there are none."""
    try:
        return read_json((folder / STATE).read_bytes(), Counters)
    except (OSError, msgspec.DecodeError):
        return Counters()


def _write_counters(folder: Path, counters: Counters) -> None:
    partial = folder / (STATE + NEW)
    partial.write_bytes(msgspec.json.encode(counters))
    partial.rename(folder / STATE)


@contextlib.contextmanager
def alone(folder: Path, patience_s: float = 10.0) -> Iterator[None]:
    """The one keeper of a folder. `ValueError` when another one has it."""
    with open(folder / "keeper.lock", "w") as lock:
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise ValueError(
                        f"{folder} has a keeper already: give each gateway its own recording_dir"
                    ) from None
                time.sleep(0.1)
        os.utime(lock.name)
        yield
