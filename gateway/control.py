"""What the gateway's main process and its workers say to each other: one JSON object a packet.

A unix SOCK_SEQPACKET connection that the worker opens and, after a restart of the main process, opens again:
`Ready` names the calls that live on, so that the edge knows again where their requests belong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

MAX_BYTES = 65_536


class Ready(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: I take calls."""

    worker: str
    pid: int
    sip_port: int
    capacity: int
    rate_hz: int
    library: str
    attached: bool
    calls: list[str]


class CallEnded(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: this SIP Call-ID is over."""

    call_id: str


class Attachable(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker: whether a model server is there for new calls."""

    attached: bool


class Report(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Worker, once a second: counters that only grow, and gauges of now."""

    counters: dict[str, int]
    gauges: dict[str, float]


class Drain(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Main: hang up what lives and leave, now."""


WorkerMessage = Ready | CallEnded | Attachable | Report
MainMessage = Drain

encode = msgspec.json.encode
decode_worker = msgspec.json.Decoder(WorkerMessage).decode
decode_main = msgspec.json.Decoder(MainMessage).decode


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, whose directory is made for this user alone.

    `ValueError` when a live process listens there already.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise ValueError(f"{path} is in use: stop the other gateway, or give this one another run_dir")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    listener.listen(64)
    return listener


def connect(path: Path) -> socket.socket:
    """A connection to `path`; `OSError` when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


async def packets(connection: socket.socket) -> AsyncIterator[bytes]:
    """Every packet until the other side is gone."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while packet := await loop.sock_recv(connection, MAX_BYTES):
            yield packet
