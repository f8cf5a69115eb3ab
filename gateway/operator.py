"""What an operator asks of a running `microturn up`, by a socket in its run_dir that only this user can reach.

One request a connection, JSON packets (SOCK_SEQPACKET): `Upgrade` ->, <- `Progress`, <- `Outcome`.
An operator who hangs up hears no more of it; what was begun goes on. A second request meanwhile is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from gateway import control
from gateway.reading import reader
from gateway.tasks import Tasks

log = structlog.get_logger()

SOCKET = "up.sock"
HEAR_S = 2.0
"""For the request, after the connection."""


class Upgrade(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Operator: a new model server shall take over."""

    engine: str = ""
    """Of which engine; empty is the usual one."""


class Progress(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Up: what is going on, for a person to read."""

    said: str


class Outcome(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Up: it is over."""

    done: bool
    said: str
    figures: dict[str, float | bool] = {}


Tell = Callable[[str], None]
_decode = reader(msgspec.json.Decoder(Progress | Outcome).decode)
_decode_request = reader(msgspec.json.Decoder(Upgrade).decode)


class Operator:
    """The end of `microturn up`."""

    def __init__(
        self, run_dir: Path, upgrade: Callable[[str, Tell], Awaitable[Outcome]], tasks: Tasks
    ) -> None:
        """`upgrade` gets the engine's name. Listens from birth until `close`. `ValueError` if another `up` does."""
        self._path, self._upgrade, self._tasks = run_dir / SOCKET, upgrade, tasks
        self._listener = control.listen(self._path)
        self._is_busy = False
        tasks.spawn(self._accept())

    def close(self) -> None:
        """Take the socket away."""
        self._listener.close()
        self._path.unlink(missing_ok=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            connection.setblocking(False)
            self._tasks.spawn(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def say(what: Progress | Outcome) -> None:
            with contextlib.suppress(OSError):  # nobody listens any more
                connection.send(msgspec.json.encode(what))

        with connection:
            try:
                async with asyncio.timeout(HEAR_S):
                    request = _decode_request(await loop.sock_recv(connection, control.MAX_BYTES))
            except (TimeoutError, OSError, msgspec.DecodeError) as wrong:
                say(Outcome(False, f"that is no request: {wrong}"))
                return
            if self._is_busy:
                say(Outcome(False, "an upgrade is under way: wait until it is over"))
                return
            self._is_busy = True
            try:
                say(await self._upgrade(request.engine, lambda said: say(Progress(said))))
            finally:
                self._is_busy = False


async def ask(run_dir: Path, tell: Tell, engine: str = "") -> Outcome:
    """Ask the `up` of that directory to upgrade that engine's model server. `ValueError` without one."""
    loop = asyncio.get_running_loop()
    try:
        connection = control.connect(run_dir / SOCKET)
    except OSError as wrong:
        raise ValueError(
            f"no microturn up answers in run_dir {run_dir} ({wrong.strerror}): start one, or name its --run-dir"
        ) from None
    with connection:
        await loop.sock_sendall(connection, msgspec.json.encode(Upgrade(engine)))
        async for packet in control.packets(connection):
            message = _decode(packet)
            if isinstance(message, Outcome):
                return message
            tell(message.said)
    return Outcome(False, "microturn up ended meanwhile")
