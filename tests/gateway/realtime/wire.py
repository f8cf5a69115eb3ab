"""A call of `/v1/realtime` without a socket: events in, events out, held against the types of `openai`."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from gateway import control
from gateway.realtime.call import RealtimeCall
from gateway.realtime.socket import Client, SocketCounters
from media.chunk import PCM, Chunk, Flags, Reply
from media.leg import Tenancy
from media.timebase import FRAME_NS, FRAMES_PER_TURN, TURN_SAMPLES

_SERVER = TypeAdapter[Any](RealtimeServerEvent)
BUDGET_NS = 60_000_000


class Wire(Client):
    """What the client would read. What is not ours must be of the protocol."""

    def __init__(self, call: RealtimeCall) -> None:
        super().__init__(call, SocketCounters())
        self.read: list[dict[str, Any]] = []
        self.is_closed = False

    def send(self, kind: str, **fields: Any) -> bool:
        event = json.loads(json.dumps({"type": kind, "event_id": f"e{len(self.read)}", **fields}))
        if not kind.startswith("microturn."):
            _SERVER.validate_python(event)
        self.read.append(event)
        return True

    def close(self) -> None:
        self.is_closed = True


class Line:
    """One call, its client, a model whose words are the test's, and time."""

    def __init__(self, engine: str = "digits") -> None:
        self.told: list[control.WorkerMessage] = []
        self.ended: list[str] = []
        self.chunks: list[Chunk] = []
        self.call = RealtimeCall(
            "r-0123456789abcdef", "", "", buffer_s=30, live=lambda call: None,
            ended=lambda call, reason: self.ended.append(reason), tell=self.told.append,
        )  # fmt: skip
        self.call.conversation.engine = engine
        self.call.leg.lease(Tenancy(0, 1, 0, BUDGET_NS))
        self.wire = Wire(self.call)
        self._frames = 0
        self.call.opened(self.wire)

    def say(self, **event: Any) -> list[dict[str, Any]]:
        """An event of the client's; gives what came back at once."""
        before = len(self.wire.read)
        self.call.receive(json.dumps(event))
        return self.wire.read[before:]

    def append(self, pcm: PCM) -> list[dict[str, Any]]:
        return self.say(type="input_audio_buffer.append", audio=base64.b64encode(pcm.tobytes()).decode())

    def turn(self, pcm: PCM | None = None, text: str = "", *events: str, flush: bool = False) -> list[str]:
        """One turn: a cut, the reply to it, 200 ms of ear; gives the types that the client read meanwhile."""
        before = len(self.wire.read)
        now_ns = self._frames * FRAME_NS
        if not self._frames:
            self.call.speak(now_ns)
        chunk = self.call.leg.cut(now_ns, now_ns, now_ns)
        assert chunk is not None
        self.chunks.append(chunk)
        self.call.turned(chunk)
        sound = pcm if pcm is not None else np.zeros(TURN_SAMPLES, np.int16)
        flags = Flags.FLUSH if flush else Flags.NONE
        reply = Reply(1, chunk.turn, now_ns, sound, text=text, events=events, flags=flags)
        self.call.replied(reply, self.call.leg.receive_reply(reply))
        for _ in range(FRAMES_PER_TURN):
            self._frames += 1
            self.call.speak(self._frames * FRAME_NS)
        return self.types(before)

    def types(self, since: int = 0) -> list[str]:
        return [event["type"] for event in self.wire.read[since:]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.wire.read if event["type"] == kind]

    def newest(self, kind: str) -> dict[str, Any]:
        return self.of(kind)[-1]

    def sound(self) -> bytes:
        return b"".join(base64.b64decode(event["delta"]) for event in self.of("response.output_audio.delta"))


def tone(samples: int = TURN_SAMPLES, rate: int = 16_000, level: int = 8_000) -> PCM:
    return (level * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)).astype(np.int16)
