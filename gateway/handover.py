"""Calls of one worker on their way from one model server to another, while the first one goes on to answer them.

    lease at the new one, with the log of its turns until now
      --each turn that is over is passed on, marked `PAST`--> the new one: CaughtUp, no turn is under way
      --> between two turns it moves: the next one is the new one's

So every turn is answered by one of them, and the new one knows of each turn whether it was answered. How many are
on their way at a time is the new one's to say: it refuses what it has no slack for. A call that does not get there
in `MOVE_S` stays where it is and is tried again later; so does one whose ring over there is full.

A call whose log goes back to its first turn has the same sequence over there. That of an older call has a shorter
past: it says the same words with another wave form, so a call that speaks moves when it is quiet, or after
`QUIET_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import structlog

from gateway.attachment import Attachment
from media.chunk import PCM, Flags
from media.leases import CaughtUp, Lease, Leased
from media.turn_log import TurnLog

log = structlog.get_logger()

MOVE_S = 30.0
"""From the lease until the call moves: 12 s of log are appended, in whatever slack there is."""
QUIET_S = 8.0
"""To wait for a turn in which the model says nothing."""
QUIET_PEAK = 200
"""Largest sample of such a turn."""
LOOK_S, AGAIN_S = 0.1, 0.3
"""Between looks for calls that are not on their way yet; longer after the new server had no room: an attempt packs
a log."""

CallT = TypeVar("CallT")


class Moving(Protocol[CallT]):
    """What a handover asks of the worker's turns."""

    def calls_at(self, server: Attachment) -> Iterable[CallT]:
        """Those that have a slot there."""
        ...

    def wish_of(self, call: CallT) -> Lease:
        """For a lease elsewhere that keeps its phase group and budget."""
        ...

    def log_of(self, call: CallT) -> TurnLog:
        """Of its turns until now."""
        ...

    def move(self, call: CallT, server: Attachment, leased: Leased) -> None:
        """From its next turn on that server answers the call."""
        ...


@dataclass(slots=True)
class _Move:
    begun_s: float
    passed_on: int
    """The newest turn that the new server was given."""
    reaches_back: bool
    """The log that it has over there begins with the call."""
    leased: Leased | None = None
    is_quiet: bool = False
    """The newest reply of the old server."""
    caught_up_s: float | None = None


class Handover(Generic[CallT]):
    """From `old` to `new`, one way, until it is stopped."""

    def __init__(
        self, old: Attachment, new: Attachment, turns: Moving[CallT], clock_s: Callable[[], float]
    ) -> None:
        self.old, self.new = old, new
        self.given_up = 0
        self._turns, self._clock_s = turns, clock_s
        self._moves: dict[CallT, _Move] = {}

    async def run(self) -> None:
        """Begin with one call after the other, as the new server lets us, until none is left at the old one."""
        while True:
            has_room = await self.begin()
            self.give_up_late()
            if not self._moves and not list(self._turns.calls_at(self.old)):
                return
            await asyncio.sleep(LOOK_S if has_room else AGAIN_S)

    async def begin(self) -> bool:
        """Those that are not on their way yet; False once the new server has no room for more."""
        for call in list(self._turns.calls_at(self.old)):
            if call not in self._moves and not await self._begin(call):
                return False
        return True

    def give_up_late(self) -> None:
        """Who has been on the way for too long stays."""
        late = [call for call, move in self._moves.items() if self._clock_s() - move.begun_s > MOVE_S]
        for call in late:
            log.warning("call does not catch up", call=self._turns.wish_of(call).call, seconds=MOVE_S)
            self._give_up(call)

    def answered(self, call: CallT, pcm: PCM) -> None:
        """A turn of it is over: the old server's reply came, int16 [3200]."""
        move = self._moves.get(call)
        if move is None:
            return
        move.is_quiet = max(int(pcm.max()), -int(pcm.min())) < QUIET_PEAK
        if move.leased is not None:
            self._pass_on(call, move.leased, move, self._turns.log_of(call).newest_answered)

    def caught_up(self, message: CaughtUp) -> None:
        """The new server has appended what it was given; if that was all, the call moves."""
        for call, move in self._moves.items():
            leased = move.leased
            if leased is None or (leased.slot, leased.generation) != (message.slot, message.generation):
                continue
            if message.turn == move.passed_on == self._turns.log_of(call).newest and self._may_move(move):
                log.debug(
                    "call moves",
                    call=leased.call,
                    slot=leased.slot,
                    turn=message.turn + 1,
                    speaks=not move.is_quiet,
                )
                del self._moves[call]
                self._turns.move(call, self.new, leased)
            return

    def _may_move(self, move: _Move) -> bool:
        """It has caught up: whether it is a good time."""
        now_s = self._clock_s()
        move.caught_up_s = now_s if move.caught_up_s is None else move.caught_up_s
        return move.reaches_back or move.is_quiet or now_s - move.caught_up_s > QUIET_S

    def drop(self, call: CallT) -> None:
        """It is over, or has no slot any more: what it has over there is given back."""
        move = self._moves.pop(call, None)
        if move is not None and move.leased is not None:
            self.new.release(move.leased.call, move.leased.slot, move.leased.generation)

    def inherit(self, call: CallT) -> Leased | None:
        """The old server is gone: the slot over there, which knows of all turns that there are; or None."""
        move = self._moves.get(call)
        if move is None or move.leased is None:
            self._moves.pop(call, None)
            return None
        if not self._pass_on(call, move.leased, move, self._turns.log_of(call).newest):
            return None
        del self._moves[call]
        return move.leased

    def stop(self) -> None:
        """Nobody moves any more; who has not stays."""
        for call in list(self._moves):
            self.drop(call)

    async def _begin(self, call: CallT) -> bool:
        """False when the new server has no room for it now."""
        turns = self._turns.log_of(call)
        until = turns.newest_answered
        if until < 0 <= turns.newest:
            return True  # its first turn is under way: another time
        move = self._moves[call] = _Move(self._clock_s(), until, turns.oldest == 0)
        wish = replace(self._turns.wish_of(call), moves=True)
        answer = await self.new.lease(wish, turns.pack(until) if until >= 0 else b"")
        if self._moves.get(call) is not move:  # it is over, or nobody moves any more
            if isinstance(answer, Leased):
                self.new.release(answer.call, answer.slot, answer.generation)
            return True
        if not isinstance(answer, Leased):
            del self._moves[call]
            log.debug("call does not move yet", call=wish.call, reason=answer.reason)
            return False
        move.leased = answer
        if until >= 0:
            self._pass_on(call, answer, move, turns.newest_answered)
        elif turns.newest < 0:
            del self._moves[call]
            self._turns.move(call, self.new, answer)
        else:  # its first turn went to the old one meanwhile
            self.drop(call)
        return True

    def _pass_on(self, call: CallT, leased: Leased, move: _Move, until: int) -> bool:
        for chunk in self._turns.log_of(call).past(move.passed_on, until):
            past = replace(chunk, generation=leased.generation, flags=chunk.flags | Flags.PAST)
            if not self.new.publish(leased.slot, past):
                self._give_up(call)
                return False
            move.passed_on = chunk.turn
        return True

    def _give_up(self, call: CallT) -> None:
        self.given_up += 1
        self.drop(call)
