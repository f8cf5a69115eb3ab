"""What a task is, on its way to whoever works at it and back: JSON, typed at every edge.

Caller data are in `Spoken.text`, `Order.request`, `News.text` and `Still.jpeg` alone.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from gateway.reading import reader
from gateway.state.records import Spoken as Spoken
from gateway.state.records import TaskState

State = TaskState
OPEN: Final = ("asked", "running")
Reads = Literal["text", "numbers"]
"""What the model of a call can read: sentences, or a whole number from 0 to 20 and nothing else."""
READS: Final[dict[str, Reads]] = {"digits": "numbers"}
"""By engine; all others read text."""

MOST_CONVERSATION_BYTES: Final = 32_768
"""Of the newest lines of a call, as JSON: half a control packet."""
CUT: Final = " [cut]"
"""Ends a text that had to be cut, for people to see."""
MOST_REQUEST_BYTES: Final = 1_024
MOST_PIECE_BYTES: Final = 480
"""With its `result ` two of them fit into one chunk's text."""
MOST_PIECES: Final = 64
"""Of one task: text beyond it is left out, and its news say `cut`."""
MOST_NOTE_BYTES: Final = 120
MOST_STILL_BYTES: Final = 40_960
"""Of a JPEG: in base64 it has room in a control packet. 320x240 of a living room takes half of it."""


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task; `key` makes asking for it twice the same as once."""

    key: str
    call: str
    """The name that the call is kept under."""
    task: str
    """Its name within the call."""
    node: str
    """The gateway that has the call: news go there."""
    turn: int
    request: str
    """What the model wrote with its action, such as `caller: 3 plus 4`."""
    lines: tuple[Spoken, ...] = ()
    """The conversation before it, oldest first."""
    reads: Reads = "text"
    tenant: str = ""
    camera: bool = False
    """The caller has shown a camera: who works at it may ask for a picture."""
    traceparent: str = ""
    """W3C trace context of the task, where traces are taken."""


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a task since the news before; they are numbered 1, 2, 3 ... for each task."""

    key: str
    call: str
    task: str
    number: int
    state: State
    text: str = ""
    """A piece of the result."""
    note: str = ""
    """What is being done, or why it failed: for people, never for the model."""
    worker: str = ""
    still: int = 0
    """Not 0: no word for the call, but a wish for a picture of its camera, the task's first, second ..."""


class Still(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the camera shows, or why there is no picture; of the wish with that number."""

    number: int
    jpeg: bytes = b""
    reason: str = ""
    """For the model to read; empty where there is a picture."""


encode = msgspec.json.encode
decode_order = reader(msgspec.json.Decoder(Order).decode)
decode_still = reader(msgspec.json.Decoder(Still).decode)
decode_news = reader(msgspec.json.Decoder(News).decode)


def cut_text(text: str, most_bytes: int) -> str:
    """Its beginning, at a character, in so many bytes of UTF-8 at most."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= most_bytes else encoded[:most_bytes].decode(errors="ignore")


def cut_front(text: str, most_bytes: int) -> str:
    """Its end, likewise: the newest of a conversation."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= most_bytes else encoded[-most_bytes:].decode(errors="ignore")
