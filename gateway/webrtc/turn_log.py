"""What a browser is told of its turns: levels, repairs and losses, one row a turn (docs/protocol.md, `turns`)."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from media.chunk import PCM, Chunk, Flags
from media.jitter import JitterBuffer
from media.leg import Leg
from media.timebase import MODEL_HZ

QUIET_DBOV = -96
HELD, MISSED, LATE, FLUSHED, VIDEO = 1, 2, 4, 8, 16
_PER_MS = MODEL_HZ // 1000


class Line(Protocol):
    """The connection, as far as the log tells of it."""

    @property
    def loss_told(self) -> float: ...


class TurnLog:
    """Rows that were not sent yet, and the counts that the next row is a difference of."""

    def __init__(self, leg: Leg[JitterBuffer]) -> None:
        self._leg = leg
        self._rows: list[tuple[int, ...]] = []
        self._first = 0
        self._counted = (0, 0, 0)
        self._energy = 0.0
        self._spoken = 0
        self._watching = False

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self, watching: bool) -> None:
        """Somebody watches, or nobody: only then is anything computed."""
        self._watching = watching
        self._rows.clear()
        self._counted = self._counts()
        self._energy, self._spoken = 0.0, 0

    def spoke(self, frame: bytes) -> None:
        """20 ms went out."""
        if self._watching:
            samples = np.frombuffer(frame, np.int16).astype(np.float32)
            self._energy += float(np.dot(samples, samples))
            self._spoken += len(samples)

    def goes_on_with(self, chunk: Chunk) -> bool:
        """Whether its turn is next to the rows that wait: turns that were slept over have no row."""
        return not self._rows or chunk.turn == self._first + len(self._rows)

    def add(self, chunk: Chunk) -> None:
        """The turn that was cut; `goes_on_with` it."""
        if not self._rows:
            self._first = chunk.turn
        counts = self._counts()
        missed, late, flushed = (now > before for now, before in zip(counts, self._counted, strict=True))
        self._counted = counts
        flags = bool(chunk.flags & Flags.HELD) * HELD | missed * MISSED | late * LATE | flushed * FLUSHED
        self._rows.append(
            (
                level_dbov(chunk.pcm),
                _dbov(self._energy, self._spoken),
                chunk.concealed_samples // _PER_MS,
                chunk.lost_packets,
                chunk.dropped_samples // _PER_MS,
                chunk.played_samples // _PER_MS,
                flags | bool(chunk.video) * VIDEO,
            )
        )
        self._energy, self._spoken = 0.0, 0

    def take(self, line: Line) -> dict[str, Any]:
        """The fields of a `turns` message; the rows begin anew."""
        intake = self._leg.intake
        fields = {
            "first": self._first,
            "turns": list(self._rows),
            "delay_ms": round(intake.delay_ms, 1),
            "jitter_ms": round(intake.jitter_ms, 1),
            "loss": round(intake.loss, 4),
            "loss_sent": round(line.loss_told, 4),
        }
        self._rows.clear()
        return fields

    def _counts(self) -> tuple[int, int, int]:
        ledger = self._leg.playout.ledger
        return ledger.missed_turns, ledger.late_turns, ledger.flushed + ledger.withheld


def level_dbov(pcm: PCM) -> int:
    """RMS of int16 samples in dB below overload, as RFC 6465 counts it; `QUIET_DBOV` for silence."""
    samples = pcm.astype(np.float32)
    return _dbov(float(np.dot(samples, samples)), len(samples))


def _dbov(energy: float, samples: int) -> int:
    if energy <= 0.0 or not samples:
        return QUIET_DBOV
    return max(QUIET_DBOV, round(10 * math.log10(energy / samples / 32768.0**2)))
