"""Calls that are this gateway's, and what it knows of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.state.keys import MOST_CDRS, MOST_LEGS, MOST_TASKS, Part
from gateway.state.lease import Batch, Write

MOST_KNOWN: Final = MOST_LEGS + MOST_TASKS + MOST_CDRS + 2
"""Records of a call besides its transcript."""


@dataclass(slots=True, eq=False)
class Owned:
    """One call, from its begin or adoption until its end is with the server."""

    call: str
    is_new: bool
    """Else it lived on while this gateway was away."""
    token: str = ""
    """Empty until the server has given one."""
    is_lost: bool = False
    """Another gateway has it, for good."""
    leave_s: int | None = None
    """Its end is on the way: `lease.Batch.leave_s`."""
    known: dict[tuple[Part, str], Write] = field(default_factory=dict)
    """The newest of each record but the transcript, for a server that has forgotten them."""

    def remember(self, write: Write) -> None:
        """The newest of its kind."""
        place = (write.part, write.field)
        if write.verb != "line" and (place in self.known or len(self.known) < MOST_KNOWN):
            self.known[place] = write

    def lose(self) -> None:
        """It is another gateway's."""
        self.is_lost = True
        self.known.clear()

    def batch(self, writes: list[Write], *, leaves: bool) -> Batch:
        """These writes, in order; with the last of them it is left."""
        mark: Literal["", "new"] = "new" if self.is_new and not self.token else ""
        return Batch(self.call, self.token, writes, mark, self.leave_s if leaves else None)

    def batch_again(self, writes: list[Write], *, leaves: bool) -> Batch:
        """The same for a server that has forgotten the call: with everything that is known of it."""
        lines = [write for write in writes if write.verb == "line"]
        leave_s = self.leave_s if leaves else None
        return Batch(self.call, self.token, [*self.known.values(), *lines], "again", leave_s)
