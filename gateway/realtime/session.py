"""What a client may choose of its session, and what is in force. `session.updated` always shows the latter.

Three things become of what a client asks for. It is done; or it is a wish that has no bearing here (a voice, a
threshold of a detector that is not there) and is *left aside*; or the client could not go on rightly without
it, and it is *refused* by an `error` that names it. What else the same message asks for is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from gateway.personas import MOST_PERSONA_LETTERS
from gateway.realtime.events import Fault
from gateway.realtime.sound import FORMATS, PCM_24

MOST_TOOLS: Final = 64
MOST_TOOLS_BYTES: Final = 32_768
MOST_INSTRUCTIONS: Final = 16_384
_PERSONA: Final = re.compile(r"\s*persona\s*[:=]\s*([^\n]+)", re.IGNORECASE)
_BETA: Final = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
"""Names of the beta."""
_LEFT_ASIDE: Final = (
    "model", "include", "max_output_tokens", "max_response_output_tokens", "parallel_tool_calls", "prompt",
    "reasoning", "temperature", "tracing", "truncation", "voice", "speed", "input_audio_noise_reduction", "id",
    "object", "expires_at", "client_secret",
)  # fmt: skip
TURNS: Final[dict[str, Any]] = {
    "type": "semantic_vad", "eagerness": "auto", "create_response": True, "interrupt_response": True,
}  # fmt: skip
"""The protocol's word for a model that takes its turns by itself."""


class Session:
    """Of one call."""

    def __init__(self, name: str, engine: str, persona: str = "") -> None:
        self.name, self.engine = name, engine
        self.hears = self.speaks = PCM_24
        self.instructions = f"persona: {persona}" if persona else ""
        self.persona: str | None = None
        """That the instructions name; None where they do not."""
        self.tools: dict[str, dict[str, Any]] = {}
        self.calls_functions = True
        self.transcribes = False
        self.extends = False
        """Whether the client wants events that are not of the protocol."""
        self.left_aside: list[str] = []
        """Of the newest update."""

    def told(self) -> dict[str, Any]:
        """What is in force."""
        transcription = {"model": self.engine} if self.transcribes else None
        return {
            "type": "realtime", "object": "realtime.session", "id": f"sess_{self.name}", "model": self.engine,
            "output_modalities": ["audio"], "instructions": self.instructions, "tools": list(self.tools.values()),
            "tool_choice": "auto" if self.calls_functions else "none", "max_output_tokens": "inf",
            "audio": {
                "input": {
                    "format": self.hears.told(), "noise_reduction": None, "transcription": transcription,
                    "turn_detection": TURNS,
                },
                "output": {"format": self.speaks.told(), "voice": self.engine, "speed": 1.0},
            },
            "microturn": {"events": self.extends, "turn_ms": 200},
        }  # fmt: skip

    def update(self, wish: dict[str, Any]) -> list[Fault]:
        """Do what can be done; gives what is refused."""
        self.left_aside = []
        return [fault for name, value in wish.items() for fault in self._take(str(name), value)]

    def function_of(self, action: str) -> dict[str, Any] | None:
        """The client's own, for what the model does: by its name, or its only one for a question that is handed
        off."""
        if not self.calls_functions:
            return None
        tool = self.tools.get(action)
        if tool is None and action == "delegate" and len(self.tools) == 1:
            return next(iter(self.tools.values()))
        return tool

    # -- inside

    def _take(self, name: str, value: Any) -> Iterator[Fault]:
        match name:
            case "type":
                if value != "realtime":
                    yield _unsupported("session.type", f"{value!r}: this is a session of type realtime")
            case "audio":
                yield from self._take_audio(value)
            case "input_audio_format":
                yield from self._take_format(value, "session.input_audio_format", hears=True)
            case "output_audio_format":
                yield from self._take_format(value, "session.output_audio_format", hears=False)
            case "output_modalities" | "modalities":
                if not isinstance(value, list) or "audio" not in value:
                    yield _unsupported(
                        f"session.{name}", f"{value!r}: the model speaks, so audio is among them"
                    )
            case "turn_detection":
                yield from self._take_turns(value, "session.turn_detection")
            case "input_audio_transcription":
                self.transcribes = value is not None
            case "instructions":
                yield from self._take_instructions(value)
            case "tools":
                yield from self._take_tools(value)
            case "tool_choice":
                if value not in ("auto", "none"):
                    yield _unsupported("session.tool_choice", f"{str(value)[:80]}: expected auto or none")
                else:
                    self.calls_functions = value == "auto"
            case "microturn":
                self.extends = isinstance(value, dict) and value.get("events") is True
            case _ if name in _LEFT_ASIDE:
                self.left_aside.append(f"session.{name}")
            case _:
                yield Fault("unknown_parameter", f"session has no {name[:80]!r}", f"session.{name[:80]}")

    def _take_audio(self, value: Any) -> Iterator[Fault]:
        for side, wishes in (value if isinstance(value, dict) else {"": value}).items():
            where = f"session.audio.{str(side)[:80]}".rstrip(".")
            if side not in ("input", "output") or not isinstance(wishes, dict | None):
                yield Fault("invalid_type", "audio has input and output, objects each", where)
                continue
            for name, wish in (wishes or {}).items():
                match side, name:
                    case _, "format":
                        yield from self._take_format(wish, f"{where}.format", hears=side == "input")
                    case "input", "turn_detection":
                        yield from self._take_turns(wish, f"{where}.turn_detection")
                    case "input", "transcription":
                        self.transcribes = wish is not None
                    case ("input", "noise_reduction") | ("output", "voice" | "speed"):
                        self.left_aside.append(f"{where}.{name}")
                    case _:
                        yield Fault(
                            "unknown_parameter",
                            f"there is no {str(name)[:80]!r}",
                            f"{where}.{str(name)[:80]}",
                        )

    def _take_format(self, value: Any, where: str, *, hears: bool) -> Iterator[Fault]:
        if value is None:
            return
        name = value.get("type") if isinstance(value, dict) else _BETA.get(str(value))
        form = FORMATS.get(name) if isinstance(name, str) else None
        rate = value.get("rate") if isinstance(value, dict) else None
        if form is None or rate not in (None, form.rate_hz):
            told = f"{str(value)[:120]}: expected audio/pcm at 24000, audio/pcmu or audio/pcma at 8000"
            yield _unsupported(where, told)
        elif hears:
            self.hears = form
        else:
            self.speaks = form

    def _take_turns(self, value: Any, where: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield _unsupported(
                where, "the model takes its turns by itself: it cannot wait for response.create"
            )
            return
        for name in ("create_response", "interrupt_response"):
            if value.get(name) is False:
                yield _unsupported(f"{where}.{name}", "whether to answer or to yield is the model's decision")
        if value.get("type") != TURNS["type"]:
            self.left_aside.append(where)

    def _take_instructions(self, value: Any) -> Iterator[Fault]:
        if not isinstance(value, str) or len(value) > MOST_INSTRUCTIONS:
            told = f"a text of at most {MOST_INSTRUCTIONS} letters was expected"
            yield Fault("invalid_value", told, "session.instructions")
            return
        found = _PERSONA.match(value)
        if found is None:
            self.left_aside += ["session.instructions"] if value else []
            return
        persona = " ".join(found[1].split())
        if not persona.isprintable() or len(persona) > MOST_PERSONA_LETTERS:
            told = f"a persona has at most {MOST_PERSONA_LETTERS} letters that can be printed"
            yield Fault("invalid_value", told, "session.instructions")
            return
        self.persona = persona
        self.instructions = f"persona: {persona}"

    def _take_tools(self, value: Any) -> Iterator[Fault]:
        if (
            not isinstance(value, list)
            or len(value) > MOST_TOOLS
            or len(json.dumps(value)) > MOST_TOOLS_BYTES
        ):
            told = f"at most {MOST_TOOLS} tools in {MOST_TOOLS_BYTES} bytes were expected"
            yield Fault("invalid_value", told, "session.tools")
            return
        taken: dict[str, dict[str, Any]] = {}
        for index, tool in enumerate(value):
            name = tool.get("name") if isinstance(tool, dict) else None
            if not isinstance(name, str) or tool.get("type") != "function":
                yield _unsupported(f"session.tools[{index}]", "a tool is of type function, and has a name")
            else:
                taken[name] = tool
        self.tools = taken


def arguments_of(tool: dict[str, Any], request: str) -> str:
    """What the model wants of that function, as JSON: in its one parameter, or as `request`."""
    parameters = tool.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    names = list(properties) if isinstance(properties, dict) else []
    return json.dumps({names[0] if len(names) == 1 else "request": request}, ensure_ascii=False)


def _unsupported(where: str, why: str) -> Fault:
    return Fault("unsupported_value", why[:300], where)
