"""Posts what is due at one endpoint, and waits for what comes next: HTTP, and the one clock of the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import aiohttp

from gateway.events import signing
from gateway.events.outbox import Attempt, Outbox

ANSWER_S: Final = 10.0
"""A slower endpoint has not taken the event."""
MOST_REPLY_BYTES: Final = 4_096
"""Of an answer, which nobody reads: a longer one ends its connection."""
AGENT: Final = "microturn"


class Courier:
    """Its `run` is to run; `wake` says that something was written."""

    def __init__(self, outbox: Outbox, answer_s: float = ANSWER_S) -> None:
        self.outbox = outbox
        self.wake = asyncio.Event()
        self._key = outbox.webhook.key
        self._timeout = aiohttp.ClientTimeout(total=answer_s)

    async def run(self) -> None:
        """Until cancelled."""
        outbox = self.outbox
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(timeout=self._timeout, connector=connector) as http:
            while True:
                self.wake.clear()
                attempt = outbox.next(time.monotonic(), time.time_ns() // 1_000_000)
                if attempt is not None:
                    why, retry_after_s = await self._post(http, attempt)
                    if why:
                        outbox.refused(time.monotonic(), why, retry_after_s)
                    else:
                        outbox.taken()
                    continue
                due_s = outbox.wants_at_s
                if due_s is None:
                    await self.wake.wait()
                else:
                    await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _post(self, http: aiohttp.ClientSession, attempt: Attempt) -> tuple[str, float]:
        """Why it was not taken ("" when it was), and how long the endpoint asks us to wait."""
        headers = signing.headers(self._key, attempt.event.id, int(time.time()), attempt.body)
        headers |= {"Content-Type": "application/json", "User-Agent": AGENT}
        try:
            async with http.post(
                self.outbox.webhook.url, data=attempt.body, headers=headers, allow_redirects=False
            ) as answer:
                await answer.content.read(MOST_REPLY_BYTES)
                if 200 <= answer.status < 300:
                    return "", 0.0
                return f"status {answer.status}", _seconds(answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, TimeoutError, OSError) as wrong:
            return type(wrong).__name__, 0.0


def _seconds(told: str) -> float:
    """Of a Retry-After; a date is as none."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(told))
    return 0.0
