"""WebRTC servers that send sound back."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loadtests.peers.peer import Peer, Running, program
from loadtests.webrtc_systems import started_baseline

HERE = Path(__file__).parent
VENV = HERE.parents[1] / ".venv-peers"
"""Made by `make setup-peers`: what Pipecat brings is not for our own environment."""


@contextlib.contextmanager
def _chunks(folder: Path) -> Iterator[Running]:
    with started_baseline() as system:
        assert system.pid is not None
        yield Running(system.whip_url, system.pid)


@contextlib.contextmanager
def _program(python: Path, file: str, folder: Path) -> Iterator[Running]:
    with program([str(python), str(HERE / file)], folder, ready="ready") as (pid, url):
        yield Running(url, pid)


def _pipecat_missing() -> str:
    return "" if (VENV / "bin/python").exists() else "make setup-peers"


def _pipecat_version() -> str:
    found = next(VENV.glob("lib/python*/site-packages/pipecat_ai-*.dist-info"), None)
    return found.name.removesuffix(".dist-info").rpartition("-")[2] if found else ""


_AIORTC = partial(importlib.metadata.version, "aiortc")
BROWSERS = (
    Peer(
        "aiortc-chunks", "webrtc", "aiortc as it comes, with 16 kHz chunks of 200 ms as ours have them",
        str, _chunks, _AIORTC,
    ),
    Peer(
        "aiortc-relay", "webrtc", "aiortc as it comes: the track that comes in is the one that goes out",
        str, partial(_program, Path(sys.executable), "aiortc_relay.py"), _AIORTC,
    ),
    Peer(
        "pipecat", "webrtc", "SmallWebRTCTransport, input piped to output; no model, no detector",
        _pipecat_missing, partial(_program, VENV / "bin/python", "pipecat_echo.py"), _pipecat_version,
    ),
)  # fmt: skip
