"""Calls that another model server had or has, and whose sequences are made again here, from their workers' logs.

    lease with a log --> turns wait --a pass in the slack between ticks, a turn of each call--> ...
      live turns meanwhile wait behind them and get no reply ... --> none waits: the call is live

Bounded: when a call's turn comes, the oldest turns that would not be appended in `AIM_NS`, at what passes take and
with the live turns that come meanwhile, are forgotten, so that many calls come back with less rather than late.
After `PATIENCE_NS` all that waits is forgotten. Both are counted; typed lines stay: a persona may be among them.
Calls that lease at the same time are begun together, `SETTLE_NS` after the first. Turns that never came are filled
in as silence that was made up, each to be a pass of its own; where more than `FILL_TURNS` are missing, the engine
tells the network of as many as it would in a live call.

A call that *moves* is answered by the other server meanwhile, so there is no hurry: nothing is forgotten, nobody
gives up, and it stays here, with or without turns that wait, until it is admitted: its first turn of our own came.

    log --> turns wait --passes--> none waits: caught up --a turn that is over--> one waits ...
                                                         --a turn to be answered--> admitted

No engine, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from media.chunk import QUARTER_SAMPLES, Chunk, Flags
from media.ring import chunk_of
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS, TURN_SAMPLES
from media.turn_log import LOG_LINES, LOG_TURNS
from model_server.batch import Batch

SETTLE_NS = 50 * NS_PER_MS
AIM_NS = 14 * NS_PER_S // 10
"""With the heir's start, the lease, the next tick and what a reply is promised after, callers hear nothing for less
than 2 s."""
OVERDUE_PASSES = 2
"""After `AIM_NS`, of each tick, though who is live may then be answered late: else those that come back last would
wait until the others leave room."""
PATIENCE_NS = 5 * NS_PER_S
"""A caller who hears nothing for longer hangs up."""
FILL_TURNS = 5
MOST_WAITING = 3 * LOG_TURNS
"""Of a call that moves: beyond it no more is taken, and its worker gives up."""

_SILENCE = np.zeros(TURN_SAMPLES, np.int16)
_MADE_UP = (QUARTER_SAMPLES, QUARTER_SAMPLES, QUARTER_SAMPLES, QUARTER_SAMPLES)


@dataclass(slots=True)
class _Call:
    group: int
    leased_ns: int
    waiting: deque[Chunk]
    is_begun: bool = False
    moves: bool = False
    next_turn: int = -1
    """Behind all that came; -1 before anything did."""

    def add(self, chunk: Chunk) -> None:
        first = self.next_turn if self.next_turn >= 0 else chunk.turn
        self.next_turn = chunk.turn + 1
        if chunk.turn - first <= FILL_TURNS:
            for turn in range(first, chunk.turn):
                self.waiting.append(Chunk(chunk.generation, turn, 0, _SILENCE, _MADE_UP))
        self.waiting.append(replace(chunk, video=(), flags=chunk.flags & ~Flags.PAST))

    def shorten(self, most: int) -> int:
        """To the newest so many, and older ones that have text; returns how many are forgotten."""
        before, lines = len(self.waiting), []
        while len(self.waiting) > most:
            oldest = self.waiting.popleft()
            if oldest.text:
                lines.append(oldest)
        self.waiting.extendleft(reversed(lines[-LOG_LINES:]))
        return before - len(self.waiting)


class Rebuilds:
    """By slot, the turns that are still to be appended."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._caught_up: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, slot: int) -> bool:
        return slot in self._calls

    def open(self, slot: int, group: int, log: Iterable[Chunk], now_ns: int, *, moves: bool = False) -> None:
        """A call of this phase group, with its turns so far, oldest first; at least one unless it `moves`."""
        call = self._calls[slot] = _Call(group, now_ns, deque(), is_begun=moves, moves=moves)
        for chunk in log:
            call.add(chunk)

    def close(self, slot: int) -> None:
        """The call is over, or none of these."""
        self._calls.pop(slot, None)
        self._caught_up.pop(slot, None)

    def in_group(self, group: int) -> int:
        """Calls of this phase group that are sure to get no reply at its next tick."""
        return sum(call.group == group and bool(call.waiting) for call in self._calls.values())

    # -- calls that move

    @property
    def moving(self) -> list[int]:
        """Their slots, of those that may be given more turns."""
        return [slot for slot, call in self._calls.items() if call.moves and len(call.waiting) < MOST_WAITING]

    def moves(self, slot: int) -> bool:
        """Whether the call of `slot` is one of them."""
        return slot in self._calls and self._calls[slot].moves

    def add(self, slot: int, chunk: Chunk) -> None:
        """A turn that is over, of a call that moves."""
        self._calls[slot].add(chunk)
        self._caught_up.pop(slot, None)

    def admit(self, slot: int, now_ns: int) -> None:
        """A turn of this call that moves is to be answered here; what still waits is to be appended in a hurry."""
        call = self._calls[slot]
        call.moves, call.leased_ns = False, now_ns
        self._caught_up.pop(slot, None)
        if not call.waiting:
            del self._calls[slot]

    def take_caught_up(self) -> dict[int, int]:
        """Those of which none waits any more, since last asked: slot -> the newest turn that is appended."""
        caught_up, self._caught_up = self._caught_up, {}
        return caught_up

    # -- all calls

    def begin(self, now_ns: int, most: int, pass_ns: Callable[[int], float]) -> int:
        """Those that have settled. A pass takes so many calls at `most`, and usually `pass_ns` of their number.

        Returns how many turns are forgotten for want of time.
        """
        if not any(
            now_ns - call.leased_ns >= SETTLE_NS for call in self._calls.values() if not call.is_begun
        ):
            return 0
        round_ns = -(-len(self._calls) // most) * pass_ns(min(most, len(self._calls)))
        forgotten = 0
        for call in self._calls.values():
            if call.is_begun:
                continue
            call.is_begun = True
            left_ns = call.leased_ns + AIM_NS - now_ns
            turns = int(left_ns / round_ns - left_ns / TURN_NS) if round_ns else len(call.waiting)
            turns = max(FILL_TURNS, turns)  # live ones come while these are appended
            forgotten += call.shorten(turns)
        return forgotten

    def is_overdue(self, now_ns: int) -> bool:
        """Some should be live by now."""
        return any(now_ns - call.leased_ns >= AIM_NS for call in self._calls.values() if not call.moves)

    def next_slots(self, most: int) -> list[int]:
        """Whose turns are to be appended next, together: of so many calls at most, those with most to do."""
        begun = [
            (-len(call.waiting), slot) for slot, call in self._calls.items() if call.is_begun and call.waiting
        ]
        return sorted(slot for _, slot in sorted(begun)[:most])

    def take(self, slots: Iterable[int]) -> dict[int, tuple[Chunk, ...]]:
        """The oldest turn of each; a call of which none waits any more is live."""
        taken: dict[int, tuple[Chunk, ...]] = {}
        for slot in slots:
            call = self._calls[slot]
            taken[slot] = (call.waiting.popleft(),)
            if not call.waiting and call.moves:
                self._caught_up[slot] = taken[slot][0].turn
            elif not call.waiting:
                del self._calls[slot]
        return taken

    def give_up(self, now_ns: int) -> dict[int, int]:
        """Calls whose time is over: how many turns each of them loses. They are live."""
        late = {
            slot: len(call.waiting)
            for slot, call in self._calls.items()
            if now_ns - call.leased_ns >= PATIENCE_NS and not call.moves
        }
        for slot in late:
            del self._calls[slot]
        return late

    def put_behind(self, batch: Batch) -> Batch:
        """The live turns of these calls wait behind their logs; what is left is the batch of all others."""
        ours = [slot for slot in {*map(int, batch.slots_B), *batch.earlier} if slot in self._calls]
        if not ours and not any(int(slot) in self._calls for slot in batch.missing_M):
            return batch
        for slot in ours:
            for chunk in batch.earlier.get(slot, ()):
                self._calls[slot].add(chunk)
        theirs = np.flatnonzero(~np.isin(batch.slots_B, ours))
        for b in np.flatnonzero(np.isin(batch.slots_B, ours)):
            self._calls[int(batch.slots_B[b])].add(_chunk(batch, int(b)))
        return replace(
            batch,
            slots_B=batch.slots_B[theirs],
            meta_B=batch.meta_B[theirs],
            pcm_BS=batch.pcm_BS[theirs],
            chunks={at: batch.chunks[b] for at, b in enumerate(theirs.tolist()) if b in batch.chunks},
            earlier={slot: older for slot, older in batch.earlier.items() if slot not in self._calls},
            missing_M=np.array([slot for slot in batch.missing_M if int(slot) not in self._calls], np.intp),
        )


def _chunk(batch: Batch, b: int) -> Chunk:
    return batch.chunks[b] if b in batch.chunks else chunk_of(batch.meta_B[b], batch.pcm_BS[b])
