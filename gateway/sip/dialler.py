# SPDX-License-Identifier: GPL-3.0-or-later
"""Names to addresses, and connections to them, for calls that a worker begins.

A and AAAA records alone, by the system's resolver: no SRV or NAPTR (RFC 3263), so a target names its own port.
Everything is bounded: so many at once, so long each.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from gateway.sip.flows import Flow
from gateway.sip.targets import Target

DIAL_S: Final = 8.0  # name and connection together
MAX_DIALS: Final = 32
MAX_ADDRESSES: Final = 4  # of one name, tried in turn
RESOLVERS: Final = 4  # threads: a lookup that hangs blocks one of them


class Dial(NamedTuple):
    """Where a call that waits for it wants to go."""

    call_id: bytes
    target: Target


Connect = Callable[[str, int, str], Awaitable[Flow]]
Done = Callable[[bytes, Flow | None], None]


class Dialler:
    """Finds the flow for each `Dial` and tells `done`, None if there is none.  Belongs to one event loop.

    `connect` opens a TCP connection or raises OSError, with TLS where its last argument says whose certificate is
    to be seen; `local_host` says of which family our UDP socket is.
    """

    def __init__(self, local_host: str, connect: Connect, done: Done) -> None:
        self._family = socket.AF_INET6 if ":" in local_host else socket.AF_INET
        self._connect = connect
        self._done = done
        self._tasks: set[asyncio.Task[None]] = set()
        self._resolvers = ThreadPoolExecutor(RESOLVERS, "sip-resolver")

    def dial(self, dial: Dial) -> None:
        """Begin; refused at once when too many are under way."""
        if len(self._tasks) >= MAX_DIALS:
            self._done(dial.call_id, None)
            return
        task = asyncio.get_running_loop().create_task(self._reach(dial))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _reach(self, dial: Dial) -> None:
        flow = None
        try:
            async with asyncio.timeout(DIAL_S):
                flow = await self._flow(dial.target)
        except (OSError, UnicodeError, TimeoutError):
            pass  # told by None
        self._done(dial.call_id, flow)

    async def _flow(self, target: Target) -> Flow:
        hosts = [target.host] if target.is_numeric else await self._resolve(target)
        if target.transport == "udp":
            return Flow("udp", hosts[0], target.port)
        name = (target.name or target.host) if target.transport == "tls" else ""
        for host in hosts[:-1]:
            try:
                return await self._connect(host, target.port, name)
            except OSError:
                continue
        return await self._connect(hosts[-1], target.port, name)

    async def _resolve(self, target: Target) -> list[str]:
        """Addresses of a name, one or more; OSError without any."""
        kind = socket.SOCK_DGRAM if target.transport == "udp" else socket.SOCK_STREAM
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, socket.getaddrinfo, target.host, target.port, self._family, kind
        )
        hosts = list(dict.fromkeys(str(address[0]) for *_, address in found))[:MAX_ADDRESSES]
        if not hosts:
            raise OSError(f"{target.host} has no address")
        return hosts
