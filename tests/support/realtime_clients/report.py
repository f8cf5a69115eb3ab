"""What the callers beside this file have in common: sound in its own time, and what each tells when it is over.

They are run by an environment of their own (`make setup-peers`), so this knows the standard library alone:

    .venv-peers/bin/python livekit_plugin.py URL FILE.wav [--instructions TEXT] [--function]

prints one line, `Report` as JSON. FILE.wav is what the caller says, int16 mono at 24 kHz.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import dataclasses
import json
import sys
import time
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

HZ = 24_000
LOUD = 1_000
"""A piece of sound with a sample beyond it is speech; comfort sound is below 100."""
QUIET_S = 3.0
"""Without sound: the model has said what it had to say."""
NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
]  # fmt: skip
FUNCTION = {
    "name": "work_out",
    "description": "Adds what was asked for.",
    "parameters": {
        "type": "object",
        "properties": {"question": {"type": "string"}},
        "required": ["question"],
    },
}


@dataclass
class Report:
    """What one call was like for the client."""

    heard: list[str] = field(default_factory=list)
    """Of the caller, as the client was told: one transcript an item."""
    said: list[str] = field(default_factory=list)
    """By the model, piece by piece."""
    sound_s: float = 0.0
    loud_s: float = 0.0
    """Of it, in pieces that are speech."""
    functions: list[dict[str, Any]] = field(default_factory=list)
    """Calls of ours: `arguments`, `output`, and `said_before`, how many pieces had been said."""
    errors: list[str] = field(default_factory=list)
    """That the client made of what it was sent, and warnings of its own."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Of events (LiveKit) or frames (Pipecat) that came."""
    newest_sound_s: float = 0.0
    """Monotonic."""
    answered: bool = False
    """`is_answered`, in the end."""

    def count(self, kind: str) -> None:
        """One of them."""
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def hear(self, pcm: bytes, hz: int) -> None:
        """int16 mono of the model's."""
        samples = array.array("h", pcm)
        seconds = len(samples) / hz
        self.sound_s += seconds
        self.newest_sound_s = time.monotonic()
        if samples and max(max(samples), -min(samples)) > LOUD:
            self.loud_s += seconds

    def work_out(self, arguments: str) -> int:
        """The sum of the last two numbers in the question."""
        numbers = [int(word) for word in str(json.loads(arguments)["question"]).split() if word.isdecimal()]
        total = sum(numbers[-2:])
        self.functions.append({"arguments": arguments, "output": total, "said_before": len(self.said)})
        return total

    @property
    def is_answered(self) -> bool:
        """Whether an output of our function was said, and nothing more comes."""
        was_said = any(
            NUMBERS[call["output"]] in "".join(self.said[call["said_before"] :]).split()
            for call in self.functions
            if call["output"] < len(NUMBERS)
        )
        return was_said and time.monotonic() > self.newest_sound_s + QUIET_S

    async def speech(self, path: str, piece_ms: int) -> AsyncIterator[bytes]:
        """The file in its own time, until `is_answered` at most."""
        with wave.open(path) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (HZ, 1, 2), path
            size, begun_s, number = HZ * piece_ms // 1_000, time.monotonic(), 0
            while len(piece := file.readframes(size)) == 2 * size and not self.is_answered:
                number += 1
                await asyncio.sleep(max(0.0, begun_s + number * piece_ms / 1_000 - time.monotonic()))
                yield piece

    def tell(self) -> None:
        """The one line."""
        self.answered = self.is_answered
        sys.stdout.write(json.dumps(dataclasses.asdict(self)) + "\n")


def arguments() -> argparse.Namespace:
    """`url` of the gateway, `file`, `instructions`, `function`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url", help="http://HOST:PORT")
    parser.add_argument("file", help="int16 mono at 24 kHz")
    parser.add_argument("--instructions", default="", help="for the session")
    parser.add_argument("--function", action="store_true", help="bring a function that adds")
    return parser.parse_args()
