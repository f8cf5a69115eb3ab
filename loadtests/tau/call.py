"""One telephone call that is driven tick by tick: 200 ms of mu-law in, as much out, on the call's clock."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

import numpy as np

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.stream import RtpStream
from loadtests.tau.line import AHEAD_PACKETS, PACKETS_PER_TICK, TICK_MS, Heard, Said

LONGEST_S = 1_800.0
ANSWER_S = 15.0
PACKET_S, POLL_S = 0.02, 0.002
RATE_HZ = 8_000


class TickCall:
    """An async context manager: called and answered within it, hung up when it is left.

    `tick` takes as long as the tick lasts. Nobody else may tick the same call meanwhile.
    """

    def __init__(self, uri: str, longest_s: float = LONGEST_S) -> None:
        """Raises ValueError for what cannot be called."""
        silence = np.zeros(0, np.int16)
        self._plan = CallPlan(
            uri, "PCMU", silence, RATE_HZ, longest_s, record=False, answer_timeout_s=ANSWER_S
        )
        self._caller = Caller()
        self._stream: RtpStream | None = None
        self._begun = asyncio.Event()
        self._read = 0
        self.said = Said(bytearray())
        self.heard = Heard()
        self.ticks = 0

    async def __aenter__(self) -> Self:
        """Raises ConnectionError when nobody answers."""
        await self._caller.__aenter__()
        self._call: asyncio.Task[CallLog] = asyncio.create_task(
            self._caller.place(self._plan, self._began), name="tick-call"
        )
        waiting = asyncio.create_task(self._begun.wait())
        await asyncio.wait({self._call, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._begun.is_set():
            await self._caller.__aexit__(None, None, None)
            log = self._call.result()
            raise ConnectionError(f"{self._plan.uri} was not answered: {log.status} {log.reason}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._caller.wind_up()
        with contextlib.suppress(asyncio.CancelledError):
            await self._call
        await self._caller.__aexit__(kind, wrong, trace)

    async def tick(self, audio: bytes) -> bytes:
        """Say 1,600 bytes and hear as many: those that came while they were said, but for the last 40 ms, in
        which the next tick is to come.

        Raises ConnectionError when the peer has hung up, ValueError for another length, EOFError when the call has
        lasted as long as it was to.
        """
        stream = self._up()
        first = self.said.say(audio, stream.next_index)
        until = first + PACKETS_PER_TICK - AHEAD_PACKETS
        while stream.next_index < until:
            await asyncio.sleep(max(POLL_S, (until - stream.next_index - 1) * PACKET_S))
            stream = self._up()
        self.ticks += 1
        for datagram in stream.datagrams[self._read :]:
            self.heard.take(datagram)
        self._read = len(stream.datagrams)
        return self.heard.cut(stream.next_index)

    def _began(self, stream: RtpStream) -> None:
        stream.payload = self.said.payload = bytearray(stream.payload)
        self._stream = stream
        self._begun.set()

    def _up(self) -> RtpStream:
        if self._call.done() or self._stream is None:
            raise ConnectionError(
                f"the call to {self._plan.uri} is over after {self.ticks * TICK_MS / 1000:g} s"
            )
        return self._stream
