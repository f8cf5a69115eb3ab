"""A WHIP caller of libdatachannel (C++: its own ICE, DTLS, SRTP and SCTP), with Opus of ours.

It is an npm package with a binary in it, and no part of what `make test` installs:

    npm install --prefix build/node node-datachannel@0.33.4
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from media.chunk import PCM
from media.codecs.opus import OpusDecoder, OpusEncoder
from media.rtp import RtpPacket, parse_packet

MODULES = Path(__file__).parents[2] / "build/node/node_modules"
SCRIPT = Path(__file__).with_suffix(".cjs")
PAYLOAD_TYPE, SSRC = 96, 0x6D696372  # as in the script
RATE_HZ, FRAME_SAMPLES, FRAME_S, CLOCK_PER_FRAME = 16_000, 320, 0.02, 960


class LibdatachannelCaller:
    """One call. What comes is kept by a thread that reads; `messages` are lines of the program, less RTP."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.packets: list[RtpPacket] = []
        self._process = process
        self._encoder = OpusEncoder(RATE_HZ)
        self._sent = 0
        self._reader = threading.Thread(target=self._read, name="libdatachannel", daemon=True)
        self._reader.start()

    @classmethod
    @contextlib.contextmanager
    def calling(cls, url: str, token: str = "") -> Iterator[LibdatachannelCaller]:
        """From its offer on; nothing of it is left when the block is. Skips the test where it is not installed."""
        node = shutil.which("node")
        if node is None:
            pytest.skip("no node on PATH")
        if not (MODULES / "node-datachannel").is_dir():
            pytest.skip("not installed: npm install --prefix build/node node-datachannel@0.33.4")
        process = subprocess.Popen(
            [node, str(SCRIPT), url, token],
            env=os.environ | {"NODE_PATH": str(MODULES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        caller = cls(process)
        try:
            yield caller
        finally:
            caller._end()

    def wait_for(self, key: str, holds: Callable[[Any], bool] = bool, timeout_s: float = 8.0) -> Any:
        """The value of the first message with that key that holds; TimeoutError says what came instead."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for message in list(self.messages):
                if key in message and holds(message[key]):
                    return message[key]
            time.sleep(0.01)
        raise TimeoutError(f"no {key} within {timeout_s} s; there were {self.messages}")

    def channel_message(self, kind: str) -> dict[str, Any]:
        """The first message of that type on the data channel, waited for."""
        text: str = self.wait_for("message", lambda text: json.loads(text)["type"] == kind)
        message: dict[str, Any] = json.loads(text)
        return message

    def say(self, **message: Any) -> None:
        """On the data channel."""
        self._tell({"say": json.dumps(message)})

    def speak(self, pcm: PCM) -> None:
        """int16 [n] at 16 kHz in its own time."""
        began_s = time.monotonic()
        for number, block in enumerate(
            pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        ):
            time.sleep(max(0.0, began_s + number * FRAME_S - time.monotonic()))
            payload = self._encoder.encode(block)
            clock = self._sent * CLOCK_PER_FRAME
            packet = RtpPacket(PAYLOAD_TYPE, self._sent, clock, SSRC, payload, marker=not self._sent)
            self._tell({"rtp": base64.b64encode(packet.serialise()).decode()})
            self._sent += 1

    def heard(self) -> PCM:
        """int16 [n] at 16 kHz: every packet that came, in order; what was lost is left out."""
        decoder = OpusDecoder(RATE_HZ)
        return np.concatenate([decoder.decode(packet.payload) for packet in list(self.packets)])

    def hang_up(self) -> int:
        """DELETE; its status."""
        self._tell({"hangUp": True})
        return int(self.wait_for("deleted"))

    def _tell(self, line: dict[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps(line) + "\n")
        stdin.flush()

    def _read(self) -> None:
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        for line in stdout:
            message = json.loads(line)
            if "rtp" in message:
                packet = parse_packet(base64.b64decode(message["rtp"]))
                assert isinstance(packet, RtpPacket)
                self.packets.append(packet)
            else:
                self.messages.append(message)

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3.0)
        self._process.kill()
        self._process.wait()
        self._reader.join(2.0)
