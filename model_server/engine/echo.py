"""The echo engine: the reply to turn t is what the caller said in turn t.

It plays while turn t + 1 is captured, so the caller hears everything one turn later. It proves the path and
feeds latency and load tests; it knows nothing of speech.
"""

from __future__ import annotations

from model_server.batch import Batch, Results, Said

ECHOED = ("dtmf ",)


class EchoEngine:
    """Audio of the newest chunk; text, and events that begin with one of `ECHOED`, as text, one a line."""

    name = "echo"

    def __init__(self) -> None:
        self._unsaid: dict[int, list[str]] = {}
        """Per open slot: lines of chunks that got no reply of their own."""

    def open(self, slot: int, persona: str) -> None:
        """Any persona will do: an echo has none."""
        assert slot not in self._unsaid, f"slot {slot} is open"
        self._unsaid[slot] = []

    def step(self, batch: Batch) -> Results:
        """The batch's own samples, not a copy."""
        if not batch.chunks and not batch.earlier:
            return Results(batch.pcm_BS)
        for slot, chunks in batch.earlier.items():
            for chunk in chunks:
                self._unsaid[slot] += _lines(chunk.text, chunk.events)
        rows = set(batch.chunks)
        if batch.earlier:
            rows.update(b for b, slot in enumerate(batch.slots_B) if int(slot) in batch.earlier)
        said = {}
        for b in sorted(rows):
            lines = self._unsaid[int(batch.slots_B[b])]
            if b in batch.chunks:
                lines += _lines(batch.chunks[b].text, batch.chunks[b].events)
            if lines:
                said[b] = Said(text="\n".join(lines))
                lines.clear()
        return Results(batch.pcm_BS, said)

    def close(self, slot: int) -> None:
        """Forget what was not said yet."""
        del self._unsaid[slot]


def _lines(text: str, events: tuple[str, ...]) -> list[str]:
    return [text] * bool(text) + [event for event in events if event.startswith(ECHOED)]
