# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls that are being transferred: between a caller's REFER and the INVITE that a worker begins for it.

No worker dials by itself: the edge puts a token in place of the target (`sip:refer-TOKEN@` and our inside
address), and the target back into the INVITE to that token.  A token is a keyed hash, good for the worker that
was given it, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from gateway.sip.counters import Counters
from gateway.sip.header import BadMessage, Header, tag_of
from gateway.sip.load import Call, CallState, Worker
from gateway.sip.message import Request
from gateway.sip.path import host_port
from gateway.sip.targets import Target, Targets, target_of
from gateway.sip.timers import UNACKNOWLEDGED_NS

MAX_PENDING: Final = 256


@dataclass(slots=True, eq=False)
class Transfer:
    """One REFER that was passed on to a worker."""

    uri: bytes
    """The token, as the worker sees it."""
    call: Call
    cseq: int
    target: Target
    deadline_ns: int
    child: Call | None = None
    """What the worker began for it."""

    def is_over(self, now_ns: int) -> bool:
        """Nothing more will come of it: the worker did not dial in time, or its target has answered."""
        if self.child is None:
            return now_ns >= self.deadline_ns
        return self.child.state is not CallState.PENDING


class Transfers:
    """The bounded table of pending transfers, at most one a call.  Without targets every REFER is refused."""

    def __init__(
        self,
        key: bytes,
        inside: tuple[str, int],
        targets: Targets,
        counters: Counters,
        retry_after: tuple[Header, ...],
    ) -> None:
        self._key = key
        self._inside = host_port(*inside)
        self._targets = targets
        self._counters = counters
        self._retry_after = retry_after
        self._by_call: dict[bytes, Transfer] = {}
        self._by_uri: dict[bytes, Transfer] = {}

    def __len__(self) -> int:
        return len(self._by_call)

    def begin(self, request: Request, call: Call, now_ns: int) -> Request:
        """A REFER within a call, as the worker shall see it.

        Raises BadMessage: 603 unless configured, 400 and 403 for the target, 491 while another is pending (RFC
        3261 21.4.27: a request is pending in the same dialog), 503 if its worker has no room for one more call.
        """
        try:
            transfer = self._find(request, call, now_ns)
        except BadMessage:
            self._counters.transfers_refused += 1
            raise
        named = [h for h in request.headers if h.name != b"refer-to"]
        refer_to = Header.make(b"Refer-To", b"<%b>" % transfer.uri)
        return request.with_headers([*named, refer_to], request.via)

    def _find(self, request: Request, call: Call, now_ns: int) -> Transfer:
        if not self._targets:
            raise BadMessage(603, "Decline")
        if call.state is CallState.ENDED:
            raise BadMessage(481, "Call Does Not Exist")
        target = target_of(request.headers)
        if not self._targets.allows(target):
            raise BadMessage(403, "Target Not Allowed")
        known = self._by_call.get(call.call_id)
        if known is not None and not known.is_over(now_ns):
            if known.cseq != request.cseq or known.call is not call:
                raise BadMessage(491, "Request Pending")
            return known  # a retransmission
        self._forget_old(now_ns)
        if len(self) >= MAX_PENDING or call.worker.load >= call.worker.address.capacity:
            raise BadMessage(503, "No Room For A Transfer", self._retry_after)
        return self._add(
            Transfer(self._token(request), call, request.cseq, target, now_ns + UNACKNOWLEDGED_NS)
        )

    def claim(self, request: Request, worker: Worker, now_ns: int) -> Transfer:
        """The transfer that a worker's INVITE is for.  Raises BadMessage(403) for one that it was not given."""
        transfer = self._by_uri.get(request.uri)
        if (
            transfer is None
            or transfer.child is not None
            or transfer.call.worker is not worker
            or transfer.is_over(now_ns)
        ):
            raise BadMessage(403, "Not Yours To Call")
        return transfer

    def refused(self, call: Call, cseq: int) -> None:
        """The worker did not take this REFER."""
        known = self._by_call.get(call.call_id)
        if known is not None and known.cseq == cseq and known.child is None:
            self._remove(known)

    def _add(self, transfer: Transfer) -> Transfer:
        self._by_call[transfer.call.call_id] = self._by_uri[transfer.uri] = transfer
        self._counters.transfers_begun += 1
        return transfer

    def _forget_old(self, now_ns: int) -> None:
        for transfer in [t for t in self._by_call.values() if t.is_over(now_ns)]:
            self._remove(transfer)

    def _remove(self, transfer: Transfer) -> None:
        del self._by_call[transfer.call.call_id]
        del self._by_uri[transfer.uri]

    def _token(self, request: Request) -> bytes:
        text = b"refer\n%b\n%b\n%d" % (request.call_id, request.via.branch, request.cseq)
        digest = blake2b(text, key=self._key, digest_size=16).hexdigest().encode()
        return b"sip:refer-%b@%b" % (digest, self._inside)


def for_target(request: Request, call: Call, own_uri: bytes) -> Request:
    """A request of the worker in a call that it began, as the target shall see it: no token, no inside name.

    Dialogs are told apart by their tags (RFC 3261 12), so the worker does not miss the names that it wrote.
    """
    if call.target is None:
        return request
    named = {b"to": b"<%b>" % call.target.uri, b"from": call.caller or b"<%b>" % own_uri}
    headers = [_renamed(h, named[h.name]) if h.name in named else h for h in request.headers]
    uri = call.target.uri if request.uri == call.dialled else request.uri
    return replace(request, uri=uri, headers=headers)


def _renamed(header: Header, address: bytes) -> Header:
    tag = tag_of(header.value)
    return Header.make(header.name.title(), address + (b";tag=" + tag if tag else b""))
