"""Which call has which session and which row of the model, and how many tokens SGLang holds for it.

A session is rolled over before its share is used up: the next turn goes to a new one. The model's row stays, with
persona and newest positions in its rings, which is the context in the form that it has anyway: nothing is computed
anew, and the tokens that follow are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_server.engine.sglang.limits import Limits


@dataclass(slots=True)
class Held:
    """Of one call."""

    row: int
    call: int
    """Serial number of its sequence: a new one begins the model's row anew."""
    turn: int = 0
    """The next one of the sequence."""
    positions: int = 0
    """Of the sequence, as the model counts them."""
    session: str = ""
    """SGLang's; empty: the next turn opens one."""
    tokens: int = 0
    """That SGLang holds for the session."""


@dataclass(slots=True)
class Counts:
    """All only ever grow."""

    sessions_opened_total: int = 0
    sessions_rolled_total: int = 0
    """Left because their share of tokens was nearly used up."""
    sessions_given_up_total: int = 0
    """Left because a turn was not answered by its deadline, or SGLang no longer knew them."""
    turns_unanswered_total: int = 0
    """Turns that got silence for these reasons."""
    sequences_lost_total: int = 0
    """Calls that the model had to forget and that began anew, with their past words as text."""


class Rows:
    """Slots, rows and sessions; nothing here knows SGLang or a clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.counts = limits, Counts()
        self._held: dict[int, Held] = {}
        self._free = list(range(limits.calls))
        self._serial = 0

    def __contains__(self, slot: int) -> bool:
        return slot in self._held

    def __getitem__(self, slot: int) -> Held:
        return self._held[slot]

    @property
    def tokens_held(self) -> int:
        """By all sessions."""
        return sum(held.tokens for held in self._held.values())

    @property
    def sessions(self) -> int:
        """Open ones."""
        return sum(bool(held.session) for held in self._held.values())

    def open(self, slot: int) -> None:
        """A row for a new call; `ValueError` when all have one: one more idle session, and SGLang might hang."""
        assert slot not in self._held, f"slot {slot} has a row"
        if not self._free:
            raise ValueError(
                f"engine = 'sglang': {self.limits.calls} calls hold all sessions; expected no more; start it with "
                "more --slots"
            )
        row = min(self._free)
        self._free.remove(row)
        self._held[slot] = Held(row, self._next_serial())

    def close(self, slot: int) -> str:
        """The session to be closed, or nothing."""
        held = self._held.pop(slot)
        self._free.append(held.row)
        return held.session

    def begin_anew(self, slot: int) -> None:
        """The same call, an empty row and the first turn of a sequence; its session stays."""
        held = self._held[slot]
        held.call, held.turn, held.positions = self._next_serial(), 0, 0

    def full(self, slot: int) -> str:
        """The session that has no room for a whole turn any more and is left now, or nothing."""
        held = self._held[slot]
        if not held.session or held.tokens + self.limits.most_of_turn <= self.limits.session_tokens:
            return ""
        self.counts.sessions_rolled_total += 1
        return self._leave(held)

    def leave(self, slot: int) -> str:
        """Its next turn goes to a new session; the one that is to be closed, or nothing."""
        return self._leave(self._held[slot])

    def opened(self, slot: int, session: str) -> None:
        """Its next turn goes to this session."""
        self._held[slot].session = session
        self.counts.sessions_opened_total += 1

    def appended(self, slot: int, positions: int, written: int) -> None:
        """A turn is answered: these positions came in, and so many tokens were written beside the end."""
        held = self._held[slot]
        held.turn += 1
        held.positions += positions + written
        held.tokens += positions + written + 1

    def unanswered(self, slot: int) -> str:
        """A turn was not answered: the session is left, whatever has become of the turn."""
        held = self._held[slot]
        held.turn += 1
        self.counts.turns_unanswered_total += 1
        self.counts.sessions_given_up_total += 1
        return self._leave(held)

    def check(self) -> list[str]:
        """What is not whole, a line each."""
        wrong = []
        rows = sorted([held.row for held in self._held.values()] + self._free)
        if rows != list(range(self.limits.calls)):
            wrong.append(f"rows {rows}: expected 0 to {self.limits.calls - 1}, each once")
        for slot, held in self._held.items():
            if held.tokens > self.limits.session_tokens:
                wrong.append(
                    f"slot {slot}: {held.tokens} tokens, expected at most {self.limits.session_tokens}"
                )
        return wrong

    def _leave(self, held: Held) -> str:
        session, held.session, held.tokens = held.session, "", 0
        return session

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial
