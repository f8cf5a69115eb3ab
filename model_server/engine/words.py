"""Between tokens and what a reply or a chunk carries: captions, actions, typed lines.

| written by the network | goes out as |
|---|---|
| `say:seven` | text `seven `: the caption |
| `<delegate>` | event `delegate caller: 3 plus 4; ...`: the conversation so far, its newest end |
| `<hang-up>`, `<send-dtmf:5>`, `<show>`, `<transfer>` | events `hangup`, `dtmf 5`, `show`, `transfer` |
| `heard:three` | event `heard three`: the transcript; it is kept for the conversation, too |
| `<digit:3>`, `<expect:2>` | nothing: notes to itself (the digit that is right next, the place in a string) |

| comes in | is read by the network as |
|---|---|
| event `result 7`, a typed line `7` (0 to 20) | `<result> <digit:7>`: the answer to a question that it passed on |
| event `failed`, a typed line `failed` | `<failed>`: there is no answer |
| anything else | nothing: it was not taught to read it |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from media.chunk import MAX_EVENTS_BYTES
from model_server.model.vocabulary import NAMES, SAID, ids_of

_ACTIONS = {"<hang-up>": "hangup", "<show>": "show", "<transfer>": "transfer"}
_HEARD, _DTMF = "heard:", "<send-dtmf:"
_NUMBERS = {str(n): f"<digit:{n}>" if n < 10 else f"<number:{n}>" for n in range(21)}
REMEMBERED_WORDS = 256
CONTEXT_BYTES = MAX_EVENTS_BYTES - 112
"""Of the conversation in one event; the rest is for the other actions of the turn."""


class Talk:
    """The words of one call, of both sides, the newest `REMEMBERED_WORDS`."""

    def __init__(self) -> None:
        self._words: deque[tuple[str, str]] = deque(maxlen=REMEMBERED_WORDS)

    def write(self, tokens: Iterable[int]) -> tuple[str, tuple[str, ...]]:
        """What the network wrote in a turn, as text and events of the reply."""
        text, events = "", list[str]()
        for name in (NAMES[token] for token in tokens):
            if name in SAID:
                text += f"{SAID[name]} "
                self._words.append(("model", SAID[name]))
            elif name.startswith(_HEARD):
                self._words.append(("caller", name.removeprefix(_HEARD)))
                events.append(f"heard {name.removeprefix(_HEARD)}")
            elif name == "<delegate>":
                events.append(f"delegate {self.context()}")
            elif name.startswith(_DTMF):
                events.append(f"dtmf {name.removeprefix(_DTMF).rstrip('>')}")
            elif name in _ACTIONS:
                events.append(_ACTIONS[name])
        return text, tuple(events)

    def context(self) -> str:
        """`caller: 3 plus 4; model: let me check`, its newest `CONTEXT_BYTES`."""
        parts: list[str] = []
        last = ""
        for who, word in self._words:
            parts.append(f" {word}" if who == last else f"{'; ' if parts else ''}{who}: {word}")
            last = who
        return "".join(parts).encode()[-CONTEXT_BYTES:].decode(errors="ignore")


def read(text: str, events: Iterable[str]) -> tuple[int, ...]:
    """The tokens for a chunk's text and events."""
    names: list[str] = []
    for line in (*text.splitlines(), *events):
        word = line.strip().lower().removeprefix("result ")
        if word == "failed":
            names.append("<failed>")
        elif word in _NUMBERS:
            names += ("<result>", _NUMBERS[word])
    return ids_of(names)
