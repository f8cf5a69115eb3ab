"""What becomes of telephone calls, as the switchboard tells programs, traces, spending and the state of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

Why = Literal[
    "busy", "no-answer", "no-ringing", "rejected", "not-found", "forbidden", "unreachable", "no-room",
    "not-acceptable", "cancelled", "failed",
]  # fmt: skip
"""Why nobody answered, in a word that programs may go by."""
Kind = Literal[
    "dialled", "ringing", "answered", "failed", "ended", "transferring", "transferred", "transfer-failed",
    "joined", "left", "join-failed",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What became of a call. `status` and `reason` are SIP's where there are any. `ended` is told of calls that we
    began and of those that were handed over; of all others `Sessions` knows."""

    call: str
    """As everywhere outside of this process: `state.keys.name_of_telephone_call`."""
    kind: Kind
    status: int = 0
    reason: str = ""
    why: Why | Literal[""] = ""
    """Of `failed`, `transfer-failed` and `join-failed`."""
    target: str = ""
    """Of a transfer: the name of whom the caller is handed to."""
    person: str = ""
    """Of `joined`, `left` and `join-failed`: the name of the person's call, where there was one."""


Watcher = Callable[[CallEvent], None]


_WHY: Final[dict[int, Why]] = {
    401: "forbidden", 403: "forbidden", 404: "not-found", 407: "forbidden", 408: "no-answer", 410: "not-found",
    415: "not-acceptable", 480: "no-answer", 484: "not-found", 486: "busy", 487: "cancelled",
    488: "not-acceptable", 503: "unreachable", 600: "busy", 603: "rejected", 604: "not-found",
    606: "not-acceptable", 607: "rejected", 608: "rejected",
}  # fmt: skip
_OURS: Final[dict[str, Why]] = {"no answer": "no-answer", "no ringing": "no-ringing", "no room": "no-room"}


def why_of(status: int, reason: str) -> Why:
    """A final status in a word (RFC 3261 21, 8197, 8688); what we gave up ourselves says so in `reason`."""
    return _OURS.get(reason) or _WHY.get(status) or ("unreachable" if 500 <= status < 600 else "failed")
