# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers and the calls that count against them.

A call counts against its worker from INVITE until it is over:

    PENDING -- 2xx --> ANSWERED -- ACK --> CONFIRMED -- BYE answered, call_ended --> ENDED
       +-- final refusal, 180 s ----------> ENDED

ENDED is without load; it is kept for 32 s so that the ACK and retransmissions find the worker.

Some workers run at 16 kHz, at twice the cost: they are for callers whose SDP offer names G.722 first.  Such
a call goes to a wideband worker while one has room, and to a narrowband one after that; all other calls
prefer the narrowband ones and overflow to the wideband ones.
"""

from __future__ import annotations

import enum
import heapq
import ipaddress
from dataclasses import dataclass

from gateway.sip.flows import Flow
from gateway.sip.message import Request
from gateway.sip.sdp_policy import OPEN, Policy
from gateway.sip.targets import Target
from gateway.sip.timers import ENDED_NS


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """A SIP worker: a UDP port on loopback.  Raises ValueError for anything else.

    `capacity` is in calls; initial INVITEs come at least `invite_spacing_ns` apart (0: no limit).
    """

    name: str
    host: str
    port: int
    capacity: int
    invite_spacing_ns: int = 0
    wideband: bool = False
    """Its bridge runs at 16 kHz: calls that offer G.722 first go there while there is room."""

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.host).is_loopback or not 0 < self.port < 65536:
            raise ValueError(f"worker {self.name}: {self.host}:{self.port} is not a port on loopback")
        if self.capacity < 1 or self.invite_spacing_ns < 0:
            raise ValueError(f"worker {self.name}: capacity must be >= 1 and spacing >= 0")


@dataclass(slots=True)
class Worker:
    """A worker and its load in calls."""

    address: WorkerAddress
    flow: Flow
    load: int = 0
    next_invite_ns: int = 0


class Workers:
    """The workers by name and by address; picks the least loaded one."""

    def __init__(self) -> None:
        self._by_name: dict[str, Worker] = {}
        self._by_flow: dict[Flow, Worker] = {}

    def add(self, address: WorkerAddress) -> None:
        """Raises ValueError if the name or the address is taken."""
        flow = Flow("worker", address.host, address.port)
        if address.name in self._by_name or flow in self._by_flow:
            raise ValueError(f"worker {address.name} at {address.host}:{address.port} is there already")
        self._by_name[address.name] = self._by_flow[flow] = Worker(address, flow)

    def remove(self, name: str) -> Worker:
        """Raises KeyError for an unknown name."""
        worker = self._by_name.pop(name)
        del self._by_flow[worker.flow]
        return worker

    def named(self, name: str) -> Worker:
        """Raises KeyError for an unknown name."""
        return self._by_name[name]

    def at(self, flow: Flow) -> Worker | None:
        return self._by_flow.get(flow)

    def room(self) -> int:
        """Calls that fit beside the present ones."""
        return sum(max(0, w.address.capacity - w.load) for w in self._by_name.values())

    def room_at(self, name: str) -> int:
        """Calls that fit into that one beside the present ones; of one that is gone none."""
        worker = self._by_name.get(name)
        return max(0, worker.address.capacity - worker.load) if worker is not None else 0

    def pick(self, now_ns: int, wideband: bool = False, only: str = "") -> Worker | None:
        """Worker with room and ready for an INVITE now: of the wanted band first, then the least loaded
        (in parts of its capacity); or that one, `only`."""
        able = [
            worker
            for worker in self._by_name.values()
            if worker.load < worker.address.capacity
            and worker.next_invite_ns <= now_ns
            and only in ("", worker.address.name)
        ]
        return min(
            able,
            key=lambda w: (w.address.wideband != wideband, w.load / w.address.capacity, w.next_invite_ns),
            default=None,
        )

    def ready_ns(self) -> int | None:
        """When `pick` may next find one; None while all are full."""
        times = [w.next_invite_ns for w in self._by_name.values() if w.load < w.address.capacity]
        return min(times, default=None)

    def loads(self) -> dict[str, int]:
        return {name: worker.load for name, worker in self._by_name.items()}


class CallState(enum.Enum):
    PENDING = enum.auto()
    ANSWERED = enum.auto()
    CONFIRMED = enum.auto()
    ENDED = enum.auto()


@dataclass(slots=True, eq=False)
class Call:
    """One call.  `invite` is kept while PENDING, so that it can be refused; `deadline_ns` None means no
    limit."""

    call_id: bytes
    worker: Worker
    flow: Flow | None
    state: CallState
    cseq: int
    from_tag: bytes
    branch: bytes
    invite: Request | None
    last_ns: int
    deadline_ns: int | None = None
    sips: bool = False
    """The peer asked for TLS on every hop; the worker does not know."""
    target: Target | None = None
    """Whom the worker calls: set for a call that it began, with `flow` None until the target is reached."""
    sound6: bool | None = None
    """Its sound is IPv6; None where nobody knows."""
    dialled: bytes = b""
    """Request-URI of the worker's own INVITE, which only we know to be `target`."""
    caller: bytes = b""
    """From of a call that we place, without tag; empty is our own name."""
    own_tag: bytes = b""
    """The worker's, in a call that it began."""
    placed: bool = False
    """A call that we place ourselves: no transfer."""
    policy: Policy = OPEN
    arrived_ns: int | None = None
    """When its INVITE came from outside."""


class Calls:
    """The bounded table of calls with their deadlines."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[bytes, Call] = {}
        self._heap: list[tuple[int, bytes]] = []  # stale entries are skipped

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def full(self) -> bool:
        return len(self._calls) >= self._limit

    def get(self, call_id: bytes) -> Call | None:
        return self._calls.get(call_id)

    def add(self, call: Call) -> None:
        """`call` counts against its worker from here on; one that ENDED under the same Call-ID is
        replaced."""
        self._calls[call.call_id] = call
        call.worker.load += 1
        if call.deadline_ns is not None:
            self.set_deadline(call, call.deadline_ns)

    def set_deadline(self, call: Call, deadline_ns: int | None) -> None:
        call.deadline_ns = deadline_ns
        if deadline_ns is None:
            return
        heapq.heappush(self._heap, (deadline_ns, call.call_id))
        if len(self._heap) > 4 * self._limit:  # re-armed again and again
            self._heap = [
                (c.deadline_ns, c.call_id) for c in self._calls.values() if c.deadline_ns is not None
            ]
            heapq.heapify(self._heap)

    def end(self, call: Call, now_ns: int) -> bool:
        """Give the load back; False if the call had ENDED before."""
        if call.state is CallState.ENDED:
            return False
        call.state = CallState.ENDED
        call.invite = None
        call.worker.load -= 1
        self.set_deadline(call, now_ns + ENDED_NS)
        return True

    def forget_worker(self, worker: Worker) -> list[Call]:
        """Drop all calls of `worker`; those that had not ENDED are returned."""
        gone = [call for call in self._calls.values() if call.worker is worker]
        for call in gone:
            del self._calls[call.call_id]
        return [call for call in gone if call.state is not CallState.ENDED]

    def live(self) -> list[bytes]:
        """Call-IDs of those that have not ENDED."""
        return [call.call_id for call in self._calls.values() if call.state is not CallState.ENDED]

    def uses(self, flow: Flow) -> bool:
        return any(c.flow == flow and c.state is not CallState.ENDED for c in self._calls.values())

    @property
    def without_flow(self) -> bool:
        """Whether any lives whose peer is to say where it is now."""
        return any(c.flow is None and c.state is not CallState.ENDED for c in self._calls.values())

    def begun_on(self, flow: Flow) -> list[Call]:
        """Calls of workers that wait for an answer along `flow`."""
        return [
            c for c in self._calls.values() if c.flow == flow and c.target and c.state is CallState.PENDING
        ]

    def lose_flow(self, flow: Flow) -> None:
        for call in self._calls.values():
            if call.flow == flow:
                call.flow = None

    def next_deadline(self) -> int | None:
        while self._heap:
            deadline_ns, call_id = self._heap[0]
            call = self._calls.get(call_id)
            if call is not None and call.deadline_ns == deadline_ns:
                return deadline_ns
            heapq.heappop(self._heap)
        return None

    def expired(self, now_ns: int) -> list[Call]:
        """Calls whose deadline has come; the ENDED ones among them are forgotten."""
        found = []
        while (deadline_ns := self.next_deadline()) is not None and deadline_ns <= now_ns:
            call = self._calls[heapq.heappop(self._heap)[1]]
            call.deadline_ns = None
            if call.state is CallState.ENDED:
                del self._calls[call.call_id]
            else:
                found.append(call)
        return found
