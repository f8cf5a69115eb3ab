"""The echo engine: the reply to turn t is what the caller said in turn t.

It plays while turn t + 1 is captured, so the caller hears everything one turn later. It proves the path and
feeds latency and load tests; it knows nothing of speech.

It passes questions on as a model would: a typed line `delegate QUESTION`, or keys from `*` to `#`, where another
`*` is plus (`*3*4#`). What comes back is typed text like any other. The keys that no telephone has are a model's
other actions: A hands the caller to the one target that is set, B presses a 5, D hangs up.
"""

from __future__ import annotations

from collections.abc import Mapping

from media.chunk import MAX_VIDEO_FRAMES, Flags
from model_server.batch import Batch, Results, Said

ECHOED = ("dtmf ",)
DELEGATE, KEY = "delegate ", "dtmf "
MOST_KEYS = 16
ACTIONS: Mapping[str, str] = {"A": "transfer", "B": "dtmf 5", "C": "join", "D": "hangup"}


class EchoEngine:
    """Audio of the newest chunk; text, and events that begin with one of `ECHOED`, as text, one a line."""

    name = "echo"
    most_passes = most_positions = 0

    def __init__(self) -> None:
        self._unsaid: dict[int, list[str]] = {}
        """Per open slot: lines of chunks that got no reply of their own."""
        self._keys: dict[int, str] = {}
        """Per open slot: the keys of a question so far, with its `*`."""

    @property
    def gauges(self) -> Mapping[str, int]:
        """None of its own."""
        return {}

    def open(self, slot: int, persona: str) -> None:
        """Any persona will do: an echo has none."""
        assert slot not in self._unsaid, f"slot {slot} is open"
        self._unsaid[slot] = []

    def pictures(self, slot: int) -> int:
        """All, though nothing comes back of them."""
        return MAX_VIDEO_FRAMES

    def step(self, batch: Batch) -> Results:
        """The batch's own samples, not a copy."""
        if not batch.chunks and not batch.earlier:
            return Results(batch.pcm_BS)
        for slot, chunks in batch.earlier.items():
            for chunk in chunks:
                unsaid = self._unsaid[slot]
                unsaid += _lines(chunk.text, chunk.events)
                if Flags.ANSWERED in chunk.flags:  # said by a server before us; a question's keys may go on
                    self._questions(slot, unsaid)
                    unsaid.clear()
        rows = set(batch.chunks)
        if batch.earlier:
            rows.update(b for b, slot in enumerate(batch.slots_B) if int(slot) in batch.earlier)
        said = {}
        for b in sorted(rows):
            lines = self._unsaid[int(batch.slots_B[b])]
            if b in batch.chunks:
                lines += _lines(batch.chunks[b].text, batch.chunks[b].events)
            if lines:
                said[b] = Said(text="\n".join(lines), events=self._questions(int(batch.slots_B[b]), lines))
                lines.clear()
        return Results(batch.pcm_BS, said)

    def _questions(self, slot: int, lines: list[str]) -> tuple[str, ...]:
        """Actions, for the questions that end in these lines."""
        found = []
        for line in "\n".join(lines).split("\n"):
            if line.startswith(DELEGATE):
                found.append(f"{DELEGATE}caller: {line.removeprefix(DELEGATE)}")
            elif line.startswith(KEY):
                key, keys = line.removeprefix(KEY), self._keys.get(slot, "")
                if key in ACTIONS:
                    found.append(ACTIONS[key])
                    continue
                if key == "#" and len(keys) > 1:
                    found.append(f"{DELEGATE}caller: {keys[1:].replace('*', ' plus ')}")
                keys = keys + key if keys or key == "*" else ""
                self._keys[slot] = "" if key == "#" or len(keys) > MOST_KEYS else keys
        return tuple(found)

    def warm(self, calls: int) -> None:
        """It is."""

    def check(self) -> list[str]:
        """It keeps nothing that could be wrong."""
        return []

    def close(self, slot: int) -> None:
        """Forget what was not said yet."""
        del self._unsaid[slot]
        self._keys.pop(slot, None)


def _lines(text: str, events: tuple[str, ...]) -> list[str]:
    return [text] * bool(text) + [event for event in events if event.startswith(ECHOED)]
