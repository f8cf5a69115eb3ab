"""The model's speech as the protocol has it: responses, with one item of sound and its words each.

    none --it speaks, or `response.create`--> open --it was silent for a while, or ended its line--> completed
                                              open --it fell silent for the caller--> cancelled (turn_detected)
                                              open --`response.cancel`--> cancelled (client_cancelled)
                                              open --the policy cut it--> incomplete (content_filter)

The model does not know of responses: it is silent, or it is not. Fed with each frame when it is heard, so sound
is sent in real time, at the pace of the playout, and never ahead of it. Between responses silence is not sent.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np

from gateway.realtime.items import Item, Items, function_call, message
from gateway.realtime.sound import Mouth
from media.timebase import FRAME_MS

SILENT_RMS: Final = 80.0
"""As `safety.screen` has it: comfort sound is below 40, speech rarely below 300."""
QUIET_FRAMES: Final = 40
"""0.8 s: longer than it pauses between two words."""
LINE_FRAMES: Final = 10
"""After a line feed."""
PATIENCE_FRAMES: Final = 500
"""10 s: who asked for a response and gets none is told so."""
MOST_TIMED: Final = 256
POSITION_MS: Final = 50
"""Of one audio token: four positions of the model are a turn."""

Why = Literal["turn_detected", "client_cancelled", "content_filter"]


class Send(Protocol):
    """An event to the client."""

    def __call__(self, kind: str, **fields: Any) -> object: ...


@dataclass(slots=True)
class _Open:
    """The response that is under way."""

    name: str
    metadata: dict[str, str] | None
    item: Item | None = None
    index: int = 0
    output: list[Item] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    frames: int = 0
    quiet: int = 0
    waited: int = 0
    input_ms: int = 0


class Responses:
    """Of one call."""

    def __init__(
        self,
        items: Items,
        send: Send,
        heard_ms: Callable[[], int],
        begins: Callable[[bool], None] = lambda asked: None,
    ) -> None:
        """`heard_ms` is how much the model has heard of the caller. `begins` is called before each response, and
        with True before what comes of one that was opened earlier, since the client asked for it."""
        self.mouth = Mouth()
        self.begun = 0
        self._items, self._send, self._heard_ms, self._begins = items, send, heard_ms, begins
        self._open: _Open | None = None
        self._asked: dict[str, str] | None = None
        """Metadata of a response that waits for the end of this one."""
        self._deaf = 0
        self._billed_ms = 0
        self._timed: dict[str, int] = {}

    @property
    def is_open(self) -> bool:
        """Whether one is under way."""
        return self._open is not None

    @property
    def speaks(self) -> bool:
        """Whether it has sound."""
        return self._open is not None and self._open.item is not None

    def spoken_ms(self, item: str) -> int | None:
        """How much sound that item has; None for one that has none."""
        return self._timed.get(item)

    def ask(self, metadata: dict[str, str]) -> bool:
        """The client wants one: now, or behind the one under way; False when one waits already."""
        if self._open is None:
            self._begin(metadata)
            return True
        if self._asked is not None:
            return False
        self._asked = metadata
        return True

    def hear(self, frame: bytes, words: Sequence[str]) -> None:
        """20 ms of what the client is to hear, int16 at 16 kHz, and what was said with its first sample."""
        if self._deaf and not words:
            self._deaf -= 1
            return
        loud = bool(words) or _is_loud(frame)
        if not self.speaks:
            if not loud:
                self._wait()
                return
            self._speak()
        now = self._open
        assert now is not None
        place = self._place(now)
        for piece in words:
            now.words.append(piece)
            self._send("response.output_audio_transcript.delta", **place, delta=piece)
        delta = base64.b64encode(self.mouth.encode(frame)).decode()
        self._send("response.output_audio.delta", **place, delta=delta)
        now.frames += 1
        self._time(now)
        now.quiet = 0 if loud else now.quiet + 1
        ended = now.words and now.words[-1].rstrip(" ").endswith("\n")
        if now.quiet >= (LINE_FRAMES if ended else QUIET_FRAMES):
            self._finish("completed")

    def stop(self, why: Why) -> bool:
        """It is silent from now on; False when nothing was under way."""
        if self._open is None:
            return False
        self._deaf = 1  # the frame that fades out
        self._finish("incomplete" if why == "content_filter" else "cancelled", why)
        return True

    def end(self) -> None:
        """The call is over."""
        self._asked = None
        if self._open is not None:
            self._finish("cancelled")

    def call(self, function: str, call_id: str, arguments: str) -> None:
        """The model wants that function called: an item of the response under way, or of one for itself."""
        now = self._answer()
        index = len(now.output)
        item = function_call(self._items.new_id(), function, call_id, "", "in_progress")
        place = {"response_id": now.name, "item_id": item["id"], "output_index": index, "call_id": call_id}
        self._add(now, item, index)
        self._send("response.function_call_arguments.delta", **place, delta=arguments)
        self._send("response.function_call_arguments.done", **place, name=function, arguments=arguments)
        item |= {"arguments": arguments, "status": "completed"}
        self._done(now, item, index)
        if now.item is None:
            self._finish("completed")

    # -- inside

    def _begin(self, metadata: dict[str, str] | None) -> _Open:
        self._begins(False)
        self.begun += 1
        now = self._open = _Open(self._items.new_id("resp"), metadata or None)
        now.input_ms, self._billed_ms = self._heard_ms() - self._billed_ms, self._heard_ms()
        self._send("response.created", response=self._told(now, "in_progress"))
        return now

    def _answer(self) -> _Open:
        """The response that the model does something in now."""
        if self._open is None:
            return self._begin(None)
        if not self._open.output:
            self._begins(True)
        return self._open

    def _wait(self) -> None:
        now = self._open
        if now is not None:
            now.waited += 1
            if now.waited >= PATIENCE_FRAMES:
                self._finish("completed")

    def _speak(self) -> None:
        """It has begun."""
        now = self._answer()
        now.index = len(now.output)
        now.item = message(self._items.new_id(), "assistant", [], "in_progress")
        self._add(now, now.item, now.index)
        self._send(
            "response.content_part.added", **self._place(now), part={"type": "audio", "transcript": ""}
        )

    def _finish(self, status: str, why: Why | None = None) -> None:
        now, self._open = self._open, None
        assert now is not None
        if now.item is not None:
            place, text = self._place(now), "".join(now.words)
            self._send("response.output_audio.done", **place)
            self._send("response.output_audio_transcript.done", **place, transcript=text)
            self._send("response.content_part.done", **place, part={"type": "audio", "transcript": text})
            now.item["content"] = [{"type": "output_audio", "transcript": text}]
            now.item["status"] = "completed" if status == "completed" else "incomplete"
            self._done(now, now.item, now.index)
        told = self._told(now, status)
        told["status_details"] = {"type": status} | ({"reason": why} if why else {})
        told["usage"] = self._usage(now)
        self._send("response.done", response=told)
        asked, self._asked = self._asked, None
        if asked is not None:
            self._begin(asked)

    def _add(self, now: _Open, item: Item, index: int) -> None:
        now.output.append(item)
        self._send("response.output_item.added", response_id=now.name, output_index=index, item=item)
        before = self._items.add(item)
        self._send("conversation.item.added", previous_item_id=before, item=item)

    def _done(self, now: _Open, item: Item, index: int) -> None:
        self._send("response.output_item.done", response_id=now.name, output_index=index, item=item)
        self._send("conversation.item.done", previous_item_id=None, item=item)

    def _place(self, now: _Open) -> dict[str, Any]:
        assert now.item is not None
        return {
            "response_id": now.name,
            "item_id": now.item["id"],
            "output_index": now.index,
            "content_index": 0,
        }

    def _told(self, now: _Open, status: str) -> dict[str, Any]:
        return {
            "object": "realtime.response", "id": now.name, "status": status, "status_details": None,
            "output": now.output, "output_modalities": ["audio"], "metadata": now.metadata,
            "max_output_tokens": "inf", "usage": None, "conversation_id": None,
        }  # fmt: skip

    def _usage(self, now: _Open) -> dict[str, Any]:
        """Audio by the positions that it takes in the model, words one by one."""
        heard, said = now.input_ms // POSITION_MS, -(-now.frames * FRAME_MS // POSITION_MS)
        words = len("".join(now.words).split())
        details = {"text_tokens": 0, "audio_tokens": heard, "image_tokens": 0, "cached_tokens": 0}
        return {
            "total_tokens": heard + said + words, "input_tokens": heard, "output_tokens": said + words,
            "input_token_details": details,
            "output_token_details": {"text_tokens": words, "audio_tokens": said},
        }  # fmt: skip

    def _time(self, now: _Open) -> None:
        assert now.item is not None
        self._timed[now.item["id"]] = now.frames * FRAME_MS
        if len(self._timed) > MOST_TIMED:
            del self._timed[next(iter(self._timed))]


def _is_loud(frame: bytes) -> bool:
    samples = np.frombuffer(frame, np.int16).astype(np.float32)
    return bool(np.dot(samples, samples) > SILENT_RMS**2 * len(samples))
