# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls that we place ourselves: between the wish and the INVITE that a worker begins for it.

As with transfers no worker dials by itself.  A ticket names the worker that may use it, once, and whom the INVITE
is for; in the worker it is a URI without meaning (`sip:call-TOKEN@` and our inside address).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from gateway.sip.header import BadMessage
from gateway.sip.load import Call, Worker
from gateway.sip.message import Request
from gateway.sip.path import host_port
from gateway.sip.targets import Target
from gateway.sip.timers import UNACKNOWLEDGED_NS

MAX_PENDING: Final = 1024


@dataclass(slots=True, eq=False)
class Ticket:
    """Good for one INVITE of one worker, until `deadline_ns`."""

    uri: bytes
    """As the worker dials it."""
    worker: str
    target: Target
    caller: bytes
    """From, without tag, as the other end sees it."""
    trunk: str
    deadline_ns: int
    child: Call | None = field(default=None, repr=False)
    """What the worker began with it."""


class Tickets:
    """The bounded table of tickets that were not used yet."""

    def __init__(self, key: bytes, inside: tuple[str, int]) -> None:
        self._key = key
        self._inside = host_port(*inside)
        self._tickets: dict[bytes, Ticket] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def held_for(self, worker: str, now_ns: int) -> int:
        """Calls that this worker may still begin beside those that it has."""
        return sum(t.worker == worker and now_ns < t.deadline_ns for t in self._tickets.values())

    def issue(self, worker: Worker, target: Target, caller: bytes, trunk: str, now_ns: int) -> Ticket | None:
        """None when too many are out."""
        self._forget_old(now_ns)
        if len(self._tickets) >= MAX_PENDING:
            return None
        self._last += 1
        digest = blake2b(b"call\n%d" % self._last, key=self._key, digest_size=16).hexdigest().encode()
        uri = b"sip:call-%b@%b" % (digest, self._inside)
        ticket = Ticket(uri, worker.address.name, target, caller, trunk, now_ns + UNACKNOWLEDGED_NS)
        self._tickets[uri] = ticket
        return ticket

    def revoke(self, ticket: Ticket) -> None:
        """Nobody will use it."""
        self._tickets.pop(ticket.uri, None)

    def claim(self, request: Request, worker: Worker, now_ns: int) -> Ticket | None:
        """The ticket of a worker's INVITE, which is used up by it; None for an INVITE that bears none.

        Raises BadMessage(403) for one that another worker was given, or that is too old.
        """
        ticket = self._tickets.get(request.uri)
        if ticket is None:
            return None
        if ticket.worker != worker.address.name or now_ns >= ticket.deadline_ns:
            raise BadMessage(403, "Not Yours To Call")
        del self._tickets[request.uri]
        return ticket

    def _forget_old(self, now_ns: int) -> None:
        for ticket in [t for t in self._tickets.values() if t.deadline_ns <= now_ns]:
            del self._tickets[ticket.uri]
