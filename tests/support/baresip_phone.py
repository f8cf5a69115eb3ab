"""baresip, a phone that is not ours, and its buttons: it is told what to do over its control socket."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import soundfile

from gateway.caller.signals import numbered_tones
from loadtests.ports import free_port
from tests.stories.test_baresip_calls import MODULES, RATE_HZ

SAID_S = 20
_CONFIG = """\
module_path {modules}
module g711.so
module aufile.so
module srtp.so
module ctrl_tcp.so
module_app account.so
module_app menu.so
ctrl_tcp_listen 127.0.0.1:{control}
sip_listen 127.0.0.1:{port}
audio_source aufile,{folder}/said.wav
audio_player aufile,{folder}/heard.wav
audio_srate 8000
audio_channels 1
audio_level no
call_local_timeout 30
"""


class BaresipPhone:
    """One phone. `events`: what it has told, in order."""

    def __init__(self, folder: Path, account: str, port: int = 0, certificate: Path | None = None) -> None:
        """`account` as in its file `accounts`; it listens on `port`, or anywhere, and with a `certificate` (PEM,
        its key in the same file) for TLS on the next one."""
        folder.mkdir(exist_ok=True)
        self._folder, self._control = folder, free_port()
        self.port = port or free_port(2)  # and the one after it for TLS
        soundfile.write(
            folder / "said.wav", numbered_tones(SAID_S, RATE_HZ, seed=5), RATE_HZ, subtype="PCM_16"
        )
        config = _CONFIG.format(modules=MODULES, folder=folder, control=self._control, port=self.port)
        config += f"sip_certificate {certificate}\n" if certificate is not None else ""
        (folder / "config").write_text(config)
        (folder / "accounts").write_text(account + "\n")
        (folder / "contacts").touch()
        self._out = (folder / "told").open("wb")
        self.process = subprocess.Popen(
            ["baresip", "-f", str(folder)], cwd=folder, stdin=subprocess.DEVNULL, stdout=self._out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._socket: socket.socket | None = None

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, folder: Path, account: str, port: int = 0, certificate: Path | None = None
    ) -> Iterator[BaresipPhone]:
        """Ready for orders; gone when the block is left."""
        phone = cls(folder, account, port, certificate)
        try:
            phone._connect()
            yield phone
        finally:
            if phone._socket is not None:
                phone._socket.close()
            phone.process.kill()
            phone.process.wait()
            phone._out.close()

    @property
    def told(self) -> str:
        """What it has printed."""
        return (self._folder / "told").read_text(errors="replace")

    def do(self, command: str, params: str = "") -> None:
        """Press a button, such as `dial`, `hold`, `resume`, `hangup`, `sndcode`, `transfer`."""
        order = json.dumps({"command": command, "params": params, "token": "x"}).encode()
        assert self._socket is not None
        self._socket.sendall(b"%d:%b," % (len(order), order))

    def wait_for(self, holds: Callable[[], object], timeout_s: float = 8.0) -> None:
        """Until it holds, with its events read in between. TimeoutError with what it has told."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not within {timeout_s} s: {self.kinds}\n{self.told[-3000:]}")
            self._read(0.02)

    @property
    def kinds(self) -> list[str]:
        """Of its events, such as CALL_ESTABLISHED."""
        self._read(0)
        return [str(event.get("type", "")) for event in self.events if event.get("event")]

    def _connect(self) -> None:
        for _ in range(300):
            with contextlib.suppress(OSError):
                self._socket = socket.create_connection(("127.0.0.1", self._control), 0.2)
                return
            time.sleep(0.02)
        raise TimeoutError("baresip does not listen\n" + self.told[-2000:])

    def _read(self, seconds: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(seconds or 0.0001)
        with contextlib.suppress(OSError):
            self._buffer += self._socket.recv(65_536)
        while (match := re.match(rb"(\d+):", self._buffer)) is not None:
            end = match.end() + int(match[1])
            if len(self._buffer) <= end:
                return
            with contextlib.suppress(ValueError):
                self.events.append(json.loads(self._buffer[match.end() : end]))
            self._buffer = self._buffer[end + 1 :]
