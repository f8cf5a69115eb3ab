"""What a client says, dealt with: each event of `events.py` has its method here, or goes to the organ whose it is.

Everything is answered at once; what the model makes of it is another matter, and comes when it comes.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

import numpy as np

from gateway.background.conversation import Conversation, Tell
from gateway.realtime import events
from gateway.realtime.events import Fault
from gateway.realtime.functions import Functions
from gateway.realtime.items import Items, message
from gateway.realtime.listening import Listening
from gateway.realtime.responses import Responses, Send
from gateway.realtime.session import Session
from gateway.realtime.sound import Ear, Mouth
from media.burst import Burst
from media.chunk import Chunk
from media.leg import Leg

MOST_TEXT_BYTES: Final = 1_000
"""Of a typed line, as in the data channel of browsers."""
MOST_TEXTS: Final = 16
"""That wait for their turns."""
SPEECH_RMS: Final = 200.0
SPOKEN_TURNS: Final = 3
"""A caller whom the model falls silent for was heard in one of the newest."""
PERSONA_LINE: Final = "persona "
PERSONA_ENGINES: Final = ("digits", "sglang")
"""Those that take a persona as a typed line, in the middle of a call."""


class Owner(Protocol):
    """The call."""

    @property
    def name(self) -> str: ...
    @property
    def persona(self) -> str: ...
    @property
    def leg(self) -> Leg[Burst]: ...
    @property
    def conversation(self) -> Conversation: ...
    def cancel(self) -> None:
        """What the model says now is heard no further."""
        ...


class Desk:
    """Of one call. `show` is its conversation's."""

    def __init__(self, call: Owner, send: Send, tell: Tell) -> None:
        self.errors = self.left_aside = 0
        self.session = Session(call.name, "", call.persona)
        items = self.items = Items(call.name)
        self.listening = Listening(items, send, self._heard_ms)
        self.responses = Responses(
            items, send, self._heard_ms, begins=lambda asked: void(self.listening.close(asked))
        )
        self.functions = Functions(
            self.session, self.responses, tell, lambda news: call.conversation.take_news(news)
        )
        self._call, self._send = call, send
        self._ear = Ear()
        self._texts: deque[str] = deque()  # bounded: `_type` refuses
        self._refused = 0  # samples, since it was told
        self._acts = 0
        self._loud: deque[bool] = deque(maxlen=SPOKEN_TURNS)

    def open(self, engine: str) -> None:
        """The client is there; `engine` is what answers it."""
        self.session.engine = engine
        self._send("session.created", session=self.session.told())

    def close(self, reason: str) -> None:
        """The call is over."""
        self.responses.end()
        self.extend("bye", reason=reason)

    def receive(self, data: str | bytes) -> None:
        """One message of the client's."""
        event = events.read(data)
        if isinstance(event, Fault):
            self._fault(event)
            return
        faults = self._take(event)
        for fault in faults:
            self._fault(fault, event.event_id)
        if isinstance(event, events.SessionUpdate):
            self._send("session.updated", session=self.session.told())

    @property
    def is_spoken_to(self) -> bool:
        """Whether the client's sound of just now is loud enough for speech."""
        return any(self._loud)

    def turned(self, chunk: Chunk) -> None:
        """Once a turn."""
        samples = chunk.pcm.astype(np.float32)
        self._loud.append(bool(np.dot(samples, samples) > SPEECH_RMS**2 * len(samples)))
        if self._texts and self._call.leg.receive_text(self._texts[0]):
            self._texts.popleft()
        if self._refused:
            ms = self._refused * 1_000 // self._call.leg.intake.from_hz
            self._refused = 0
            told = f"{ms} ms of sound were refused: {self._call.leg.intake.waiting_ms} ms wait to be heard already"
            self._fault(Fault("input_audio_buffer_full", told, "audio"))

    def show(self, kind: str, **fields: Any) -> None:
        """Of the conversation: words that were heard, and tasks."""
        if kind == "heard":
            self.listening.heard(str(fields["text"]))
        self.extend(kind, **fields)

    def act(self, turn: int, action: str, value: str) -> None:
        """What the model does beyond speech."""
        self._acts += 1
        self.functions.act(action, value, self._acts)
        self.extend("action", turn=turn, action=f"{action} {value}".rstrip())

    def extend(self, kind: str, **fields: Any) -> None:
        """An event of ours, to a client that wants them."""
        if self.session.extends:
            self._send(f"microturn.{kind}", **fields)

    def counts(self) -> dict[str, int]:
        """By their short names in the metrics; of samples, their time in us."""
        account = self._call.leg.intake.account
        sums = {
            f"realtime_{name}_us": getattr(account, name) * 125 // 2  # of 16 kHz
            for name in ("received", "refused", "dropped", "concealed")
        }
        return sums | {
            "realtime_errors": self.errors, "realtime_left_aside": self.left_aside,
            "realtime_responses": self.responses.begun, "realtime_functions": self.functions.called,
        }  # fmt: skip

    # -- events

    def _take(self, event: events.Known) -> list[Fault]:
        match event:
            case events.Append():
                return self._append(event.audio)
            case events.SessionUpdate():
                return self._update(event.session)
            case events.Commit():
                if not self.listening.close():
                    return [Fault("input_audio_buffer_commit_empty", "nothing was heard since the last item")]
            case events.Clear():
                self._call.leg.intake.clear()
                self._send("input_audio_buffer.cleared")
            case events.ItemCreate():
                return self._create(event.item)
            case events.ItemRetrieve():
                item = self.items.get(event.item_id)
                if item is None:
                    return [_unknown(event.item_id)]
                self._send("conversation.item.retrieved", item=item)
            case events.ItemDelete():
                if not self.items.delete(event.item_id):
                    return [_unknown(event.item_id)]
                self._send("conversation.item.deleted", item_id=event.item_id)
            case events.ItemTruncate():
                return self._truncate(event)
            case events.ResponseCreate():
                return self._ask(event.response or {})
            case events.ResponseCancel() | events.OutputClear():
                if not self.responses.is_open:
                    return [
                        Fault("response_cancel_not_active", "there is no response that could be cancelled")
                    ]
                self._call.cancel()
            case events.Text():
                return self._type(event.text, "text")
            case events.Withdraw():
                self._call.conversation.withdraw(event.task or "-")
        return []

    def _append(self, audio: str) -> list[Fault]:
        data = events.sound_of(audio)
        if isinstance(data, Fault):
            return [data]
        self._refused += self._call.leg.intake.receive(self._ear.decode(data))
        return []

    def _update(self, wish: dict[str, Any]) -> list[Fault]:
        session = self.session
        hears, speaks, session.persona = session.hears, session.speaks, None
        faults = session.update(wish)
        if session.hears is not hears:
            self._ear = Ear(session.hears)
            if session.hears.rate_hz != hears.rate_hz:
                self._call.leg.intake.set_rate(session.hears.rate_hz)
        if session.speaks is not speaks:
            self.responses.mouth = Mouth(session.speaks)
        if session.persona is not None:
            faults += self._become(session.persona)
        self.listening.transcribes = session.transcribes
        self.left_aside += len(session.left_aside)
        if session.left_aside:
            self.extend("left_aside", params=session.left_aside)
        return faults

    def _become(self, persona: str) -> list[Fault]:
        if self.session.engine in PERSONA_ENGINES:
            return self._type(f"{PERSONA_LINE}{persona}", "session.instructions")
        if self.session.engine == "echo" or persona == self._call.persona:
            return []
        told = f"engine {self.session.engine} takes its persona when a call begins: choose it by a name in the URL"
        return [Fault("unsupported_value", told, "session.instructions")]

    def _create(self, item: dict[str, Any]) -> list[Fault]:
        name = item.get("id")
        name = name if isinstance(name, str) and 0 < len(name) <= 64 else self.items.new_id()
        match item.get("type"):
            case "message":
                return self._create_message(name, item)
            case "function_call_output":
                task, output = item.get("call_id"), item.get("output")
                if not isinstance(task, str) or not isinstance(output, str):
                    return [Fault("missing_required_parameter", "call_id and output are texts", "item")]
                fault = self.functions.give(self._call.name, task, output)
                if fault is not None:
                    return [fault]
                self._add({**item, "id": name, "object": "realtime.item", "status": "completed"})
                return []
        told = f"{str(item.get('type'))[:80]!r}: expected message or function_call_output"
        return [Fault("unsupported_value", told, "item.type")]

    def _create_message(self, name: str, item: dict[str, Any]) -> list[Fault]:
        """The words go to the model, those of a `system` as well; its own past words cannot."""
        role, content = item.get("role"), item.get("content")
        if role not in ("user", "system"):
            return [
                Fault("unsupported_value", f"{role!r}: the model takes words of user and system", "item.role")
            ]
        if not isinstance(content, list):
            return [Fault("missing_required_parameter", "content is a list", "item.content")]
        faults: list[Fault] = []
        kept: list[dict[str, Any]] = []
        for index, part in enumerate(content[:MOST_TEXTS]):
            kind = part.get("type") if isinstance(part, dict) else None
            where = f"item.content[{index}]"
            if kind == "input_text" and isinstance(part.get("text"), str):
                faults += self._type(part["text"], f"{where}.text")
                kept.append({"type": "input_text", "text": part["text"]})
            elif kind == "input_audio" and isinstance(part.get("audio"), str):
                faults += self._append(part["audio"])
                kept.append({"type": "input_audio", "transcript": None})
            else:
                faults.append(
                    Fault("unsupported_value", "expected input_text or input_audio", f"{where}.type")
                )
        if not faults:
            self._add(message(name, str(role), kept))
        return faults

    def _add(self, item: dict[str, Any]) -> None:
        before = self.items.add(item)
        self._send("conversation.item.added", previous_item_id=before, item=item)
        self._send("conversation.item.done", previous_item_id=before, item=item)

    def _type(self, text: str, where: str) -> list[Fault]:
        line = " ".join(text.split())
        if len(line.encode(errors="replace")) > MOST_TEXT_BYTES:
            return [Fault("string_above_max_length", f"a text has at most {MOST_TEXT_BYTES} bytes", where)]
        if len(self._texts) >= MOST_TEXTS:
            return [Fault("too_many_texts", f"{MOST_TEXTS} texts wait for their turns already", where)]
        if line:
            self._texts.append(line)
            if not line.startswith(PERSONA_LINE):
                self._call.conversation.typed(line)
        return []

    def _truncate(self, event: events.ItemTruncate) -> list[Fault]:
        """The model knows what was played by its own book; here the list is put right."""
        spoken_ms = self.responses.spoken_ms(event.item_id)
        if spoken_ms is None:
            return [Fault("item_truncate_invalid_item_id", "that item has no sound of ours", "item_id")]
        if not 0 <= event.audio_end_ms <= spoken_ms:
            told = f"{event.audio_end_ms} ms: the item has {spoken_ms} ms"
            return [Fault("invalid_value", told, "audio_end_ms")]
        self._send(
            "conversation.item.truncated", item_id=event.item_id, content_index=event.content_index,
            audio_end_ms=event.audio_end_ms,
        )  # fmt: skip
        return []

    def _ask(self, wish: dict[str, Any]) -> list[Fault]:
        """Whether there is anything to say is the model's decision."""
        metadata = events.metadata_of(wish.get("metadata"))
        if isinstance(metadata, Fault):
            return [metadata]
        if not self.responses.ask(metadata):
            told = "a response is under way, and another one waits for its end"
            return [Fault("conversation_already_has_active_response", told)]
        return []

    # -- inside

    def _heard_ms(self) -> int:
        account, waiting_ms = self._call.leg.intake.account, self._call.leg.intake.waiting_ms
        return max(0, (account.received - account.refused) // 16 - waiting_ms)

    def _fault(self, fault: Fault, event_id: str | None = None) -> None:
        self.errors += 1
        error = {
            "type": "invalid_request_error", "code": fault.code, "message": fault.message, "param": fault.param,
            "event_id": fault.event_id or event_id,
        }  # fmt: skip
        self._send("error", error=error)


def void(value: object) -> None:
    """For a callback that gives nothing."""


def _unknown(name: str) -> Fault:
    return Fault("item_not_found", f"there is no item {name[:80]!r}, or not any more", "item_id")
