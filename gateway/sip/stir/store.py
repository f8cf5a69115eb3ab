# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates by their addresses: kept for a while, read from a folder, or fetched.

Each address is asked for once at a time, however many calls name it, and goes on being asked when those who waited
have given up: the next call finds it.  Both what was found and what was not is bounded, apart from each other, so
that addresses that lead nowhere push out nothing that is good.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509

from gateway.sip.stir.certificate import Trusted, trusted
from gateway.sip.stir.fetch import MOST_BYTES, Hosts, fetch
from gateway.sip.stir.verdict import Distrust, StirCounters

T = TypeVar("T")

MOST_KEPT: Final = 512
"""Certificates, and as many addresses that led to none."""
MOST_FETCHES: Final = 16
"""On their way at once; beyond it a call is not verified (`busy`)."""
FETCH_S: Final = 5.0
"""Calls wait for less."""
KEEP_S: Final = 3_600
LEAST_KEEP_S: Final = 60
MOST_KEEP_S: Final = 86_400
"""By itself, and within these by what its host says."""
KEEP_NONE_S: Final = 30.0
"""An address that led to none is not asked again for so long."""
FOLDER_KEEP_S: Final = 300
_FILE = re.compile(r"https://[^\s?#]*/([A-Za-z0-9_-][A-Za-z0-9._-]{0,127})", re.I)


class Store:
    """Of one event loop. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        anchors: Sequence[x509.Certificate],
        hosts: Hosts,
        context: ssl.SSLContext,
        folder: Path | None,
        counters: StirCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` has files by the last part of an address."""
        self._anchors, self._hosts, self._context, self._folder = anchors, hosts, context, folder
        self._counters, self._clock = counters, clock
        self._found: OrderedDict[str, tuple[Trusted, float]] = OrderedDict()
        self._none: OrderedDict[str, tuple[Distrust, float]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Trusted]] = {}

    def known(self, url: str) -> Trusted | None:
        """Without waiting; None where it is to be asked for. Raises `Distrust`."""
        now_s = self._clock()
        if (found := self._found.get(url)) is not None and now_s < found[1]:
            self._found.move_to_end(url)
            return found[0]
        if (none := self._none.get(url)) is not None and now_s < none[1]:
            raise none[0]
        return None

    async def get(self, url: str) -> Trusted:
        """Who waits may be cancelled. Raises `Distrust`."""
        found = self.known(url)
        if found is not None:
            return found
        task = self._asking.get(url)
        if task is None:
            if len(self._asking) >= MOST_FETCHES:
                raise Distrust("busy")
            task = self._asking[url] = asyncio.get_running_loop().create_task(self._ask(url))
            task.add_done_callback(lambda done: self._asked(url, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Nothing is fetched any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, url: str) -> Trusted:
        self._counters.fetches += 1
        try:
            data, keep_s = await self._data(url)
            found = trusted(data, self._anchors)
        except Distrust as wrong:
            self._counters.fetches_failed += 1
            _keep(self._none, url, (wrong, self._clock() + KEEP_NONE_S))
            raise
        _keep(self._found, url, (found, self._clock() + keep_s))
        return found

    def _asked(self, url: str, task: asyncio.Task[Trusted]) -> None:
        del self._asking[url]
        if not task.cancelled():
            task.exception()  # who waited has it

    async def _data(self, url: str) -> tuple[bytes, int]:
        match = _FILE.fullmatch(url)
        if self._folder is not None and match is not None:
            data = await asyncio.to_thread(_read, self._folder / match[1])
            if data is not None:
                return data, FOLDER_KEEP_S
        if not self._hosts:
            raise Distrust("info", "stir_certificates does not have it, and stir_hosts is empty")
        data, told_s = await fetch(url, self._hosts, self._context, FETCH_S)
        return data, KEEP_S if told_s is None else min(max(told_s, LEAST_KEEP_S), MOST_KEEP_S)


def _keep(kept: OrderedDict[str, T], url: str, what: T) -> None:
    kept[url] = what
    kept.move_to_end(url)
    while len(kept) > MOST_KEPT:
        kept.popitem(last=False)


def _read(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= MOST_BYTES else None
