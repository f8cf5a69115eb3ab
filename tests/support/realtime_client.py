"""A caller made of OpenAI's own client as it comes: it reads a file like a microphone, and keeps what it hears."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from media.chunk import PCM

HZ = 24_000
PIECE_MS = 100


@dataclass
class RealtimeCaller:
    """One connection, from `calling`."""

    connection: AsyncRealtimeConnection
    events: list[Any] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    """When each came, monotonic."""
    sound: list[tuple[float, bytes]] = field(default_factory=list)
    """What was heard, and when."""
    said: list[tuple[str, int]] = field(default_factory=list)
    """Each word of the model's, and the sample of `heard` with which it came."""

    def of_type(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    def words(self) -> list[str]:
        """That the model has said."""
        return "".join(e.delta for e in self.of_type("response.output_audio_transcript.delta")).split()

    def heard(self) -> PCM:
        """int16 [n] at 24 kHz, without the silence between responses."""
        return np.frombuffer(b"".join(data for _, data in self.sound), np.int16)

    def is_done(self, since_s: float, quiet_s: float) -> bool:
        """Whether something was said since then, and nothing for so long."""
        last_s = self.sound[-1][0] if self.sound else 0.0
        return since_s < last_s < time.monotonic() - quiet_s

    async def say(self, pcm: PCM) -> None:
        """int16 [n] at 24 kHz, in real time."""
        begun, size = time.monotonic(), HZ * PIECE_MS // 1_000
        for number, at in enumerate(range(0, len(pcm), size), 1):
            await asyncio.sleep(max(0.0, begun + number * PIECE_MS / 1_000 - time.monotonic()))
            audio = base64.b64encode(pcm[at : at + size].tobytes()).decode()
            await self.connection.input_audio_buffer.append(audio=audio)

    async def until(self, good: Callable[[], bool], timeout_s: float) -> None:
        """TimeoutError with what came so far."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not good():
                    await asyncio.sleep(0.02)
                return
        raise TimeoutError(
            f"not within {timeout_s} s: {[event.type for event in self.events]}, {self.words()}"
        )

    async def read(self) -> None:
        """Until the connection is closed."""
        async for event in self.connection:
            if event.type == "response.output_audio.delta":
                self.sound.append((time.monotonic(), base64.b64decode(event.delta)))
            elif event.type == "response.output_audio_transcript.delta":
                at = sum(len(data) for _, data in self.sound) // 2
                self.said += [(word, at) for word in event.delta.split()]
            self.events.append(event)
            self.at_s.append(time.monotonic())


@contextlib.asynccontextmanager
async def calling(
    http: str,
    key: str = "none",
    model: str = "gpt-realtime",
    *,
    trust: ssl.SSLContext | None = None,
    **session: Any,
) -> AsyncIterator[RealtimeCaller]:
    """A session that is open; `session` is its first update, `trust` is for https."""
    client = AsyncOpenAI(
        api_key=key, base_url=f"{http}/v1", websocket_base_url=f"{http.replace('http', 'ws', 1)}/v1"
    )
    options: Any = {"ssl": trust} if trust is not None else {}
    async with client.realtime.connect(model=model, websocket_connection_options=options) as connection:
        caller = RealtimeCaller(connection)
        reading = asyncio.create_task(caller.read())
        try:
            await caller.until(lambda: bool(caller.of_type("session.created")), 10)
            await connection.session.update(session={"type": "realtime", **session})
            await caller.until(lambda: bool(caller.of_type("session.updated")), 10)
            yield caller
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
