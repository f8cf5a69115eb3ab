"""Something that calls are placed to."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """Where it is, and the process whose family is measured; both empty for microturn, which the callers start."""

    target: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """One program."""

    name: str
    kind: str
    """`sip` or `webrtc`: by which load test it is called."""
    does: str
    """Between what it hears and what it says."""
    missing: Callable[[], str]
    """What is to be installed; empty where all is there."""
    start: Callable[[Path], AbstractContextManager[Running]]
    """In this folder."""
    version: Callable[[], str]


@contextlib.contextmanager
def program(command: Sequence[str], folder: Path, ready: str = "") -> Iterator[tuple[int, str]]:
    """Process and, where it says when it is ready, the rest of that line; SIGINT at the end.

    RuntimeError when it ends before.
    """
    with (folder / "told").open("wb") as told:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if ready else told,
            stderr=told, start_new_session=True,
        )  # fmt: skip
        try:
            rest = _rest_of_line(process, ready) if ready else ""
            yield process.pid, rest
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _rest_of_line(process: subprocess.Popen[bytes], begin: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        said, _, rest = line.decode(errors="replace").strip().partition(" ")
        if said == begin:
            return rest
    raise RuntimeError(f"{process.args!r} ended before it was ready")
