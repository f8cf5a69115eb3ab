"""Calls that began and are not known to have ended, on disk: what a gateway that was killed owes the world.

A line for each beginning (`records.Session`) and each end (the call's name), written anew when it is opened and
when it has grown. When the gateway is back, a call in it that no worker reports has ended meanwhile.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.reading import reader
from gateway.state.records import Session

log = structlog.get_logger()

REWRITE_BYTES: Final = 1 << 20
_line_of = reader(msgspec.json.Decoder(Session | str).decode)


class OpenCalls:
    """`OSError` when the file is of no use, `ValueError` when another process has it; later errors are logged, and
    the calls go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = path.with_suffix(".lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(
                f"{path.parent} is in use: stop the other gateway, or give this one another run_dir or events_dir"
            ) from None
        self._calls = self._read()
        self._rewrite()

    def __contains__(self, call: str) -> bool:
        return call in self._calls

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def calls(self) -> list[Session]:
        """As they were when they began."""
        return list(self._calls.values())

    def begin(self, session: Session) -> None:
        """It lives."""
        self._calls[session.call] = session
        self._write(msgspec.json.encode(session))

    def end(self, call: str) -> None:
        """It is over, and everybody was told."""
        if self._calls.pop(call, None) is not None:
            self._write(msgspec.json.encode(call))

    def forget(self, calls: Iterable[str]) -> None:
        """Who called is not on disk any more, nor of calls that have ended meanwhile."""
        for call in set(calls) & self._calls.keys():
            self._calls[call] = msgspec.structs.replace(self._calls[call], caller="", number="")
        try:
            self._file.close()
            self._rewrite()
        except OSError as wrong:
            log.error("the list of live calls is not kept", reason=wrong.strerror)

    def close(self) -> None:
        """Nobody writes any more."""
        self._file.close()
        self._lock.close()

    def _read(self) -> dict[str, Session]:
        found: dict[str, Session] = {}
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return found
        unreadable = 0  # torn, or of another version
        for line in filter(None, lines):
            try:
                told = _line_of(line)
            except msgspec.DecodeError:
                unreadable += 1
                continue
            if isinstance(told, str):
                found.pop(told, None)
            else:
                found[told.call] = told
        if unreadable:
            log.warning("lines of open calls cannot be read", path=str(self._path), lines=unreadable)
        return found

    def _rewrite(self) -> None:
        fresh = self._path.with_suffix(".new")
        lines = [msgspec.json.encode(session) + b"\n" for session in self._calls.values()]
        fresh.write_bytes(b"".join(lines))
        os.chmod(fresh, 0o600)
        os.replace(fresh, self._path)
        self._file = self._path.open("ab", buffering=0)
        self._size = sum(map(len, lines))

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
            self._size += len(line) + 1
            if self._size > REWRITE_BYTES + 512 * len(self._calls):
                self._file.close()
                self._rewrite()
        except (OSError, ValueError) as wrong:
            log.error("the list of live calls is not kept", reason=str(wrong))
