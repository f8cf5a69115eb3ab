"""coturn as the TURN server of a story, with the secret that the gateway mints credentials by."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PORT = 3478
START_S, STOP_S = 10.0, 5.0


def executable() -> str:
    """coturn's path; skips the test when it is not here."""
    found = shutil.which("turnserver")
    if found is None:
        pytest.skip("no coturn (turnserver) on PATH")
    return found


@contextlib.contextmanager
def running(host: str, secret: str, folder: Path) -> Iterator[Path]:
    """It listens on UDP and TCP of `host` while the block runs; gives its log. Leaves nothing outside `folder`."""
    log = folder / "coturn.log"
    arguments = {
        "listening-ip": host, "listening-port": PORT, "relay-ip": host, "realm": "stories",
        "static-auth-secret": secret, "log-file": log, "pidfile": folder / "coturn.pid",
        "userdb": folder / "coturn.db",
    }  # fmt: skip
    command = [executable(), "-n", "--use-auth-secret", "--fingerprint", "--no-cli", "--no-tls", "--no-dtls"]
    command += ["--simple-log", "--verbose", *(f"--{name}={value}" for name, value in arguments.items())]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        _wait_until_listening(host, process)
        yield log
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def _wait_until_listening(host: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, PORT), 1.0):
            return
        time.sleep(0.05)
    raise RuntimeError(f"coturn does not listen on {host}:{PORT} (exit status {process.poll()})")
