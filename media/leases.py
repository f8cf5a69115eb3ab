"""What a worker and its model server say to each other on the control socket, and nothing of how.

A unix SOCK_SEQPACKET connection, one JSON object a packet, at most `MAX_BYTES`:

    worker                                  model server
    Hello            ------------------->
                     <-------------------   Attached, with three descriptors: slot table (memfd),
                                            doorbell towards the server, doorbell towards the worker
    Lease            ------------------->   one per call; again for every live call after a restart, then with
                                            a descriptor: the log of its turns (memfd)
                     <-------------------   Leased or Refused, naming the same call
    Release          ------------------->   the call is over, or it has moved to another server
                     <-------------------   CaughtUp, of a call that moves here (below)
                     <-------------------   Leave: move your calls to another server, or do not after all
    StatsRequest     ------------------->   also before, or without, Hello
                     <-------------------   Stats
    Leave            ------------------->   also before, or without, Hello: told to all workers
                     <-------------------   Leave, the same

End of file in either direction is the liveness signal: the server frees the slots of a worker that is gone,
the worker keeps its calls and comes back with `Hello` until a server answers.

A call moves while the server that it has goes on to answer it (a live upgrade). Its worker leases at the other
one with `moves`, and passes on each turn once it is over, marked `Flags.PAST`. The other server appends them in
its slack, and says `CaughtUp` whenever none waits. If no turn is under way then, the worker gives it all later
ones: the first chunk without `Flags.PAST` is the first that it answers. Both must speak the same `PROTOCOL`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 4096
PROTOCOL = 3


@dataclass(frozen=True, slots=True)
class Hello:
    worker: str
    pid: int
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Attached:
    epoch: int
    engine: str
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Lease:
    call: str
    floor: int = 0
    """The generation of this call must be above it: the last one that it had."""
    turn: int = 0
    """The turn that the call goes on with; not 0 after a restart of the server."""
    persona: str = ""
    log: int = 0
    """Bytes of the call's turns so far, see `media.turn_log`; not 0, and its memfd comes along, after a restart."""
    moves: bool = False
    """Another server still answers it; rows marked `Flags.PAST` follow."""
    group: int = -1
    """The phase group that it keeps; -1 is any."""
    budget_ns: int = 0
    """What it was promised by the other server, and keeps: its playout point is set by it. 0 is what we promise."""


@dataclass(frozen=True, slots=True)
class Leased:
    call: str
    slot: int
    generation: int
    group: int
    """Phase group: ticks are at `timebase.phase_offset_ns(group, groups)` of every turn."""
    budget_ns: int
    """A reply is published at most so long after its tick, as measured; the playout point is behind it."""


@dataclass(frozen=True, slots=True)
class Refused:
    call: str
    reason: str
    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Release:
    call: str
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    call: str
    slot: int
    generation: int
    turn: int
    """The newest that is appended; nothing that came after it waits."""


@dataclass(frozen=True, slots=True)
class Leave:
    to: str = ""
    """Control socket of the server that the calls are to move to, while this one goes on to answer those that have
    not; empty: they stay here after all."""


@dataclass(frozen=True, slots=True)
class StatsRequest:
    """What has been counted so far? Needs no lease and no descriptor."""


@dataclass(frozen=True, slots=True)
class Stats:
    fields: dict[str, Any]
    """`counters` and `gauges` (name -> number) and `histograms` (name -> `le_ns`, `counts`, `sum_ns`)."""


Message = Hello | Attached | Lease | Leased | Refused | Release | CaughtUp | Leave | StatsRequest | Stats
_KINDS: dict[str, type[Any]] = {
    k.__name__: k
    for k in (Hello, Attached, Lease, Leased, Refused, Release, CaughtUp, Leave, StatsRequest, Stats)
}


class BadMessage(ValueError):
    """A packet on the control socket that is none of ours."""


def encode(message: Message) -> bytes:
    """One packet."""
    return json.dumps({"is": type(message).__name__, **dataclasses.asdict(message)}).encode()


def decode(packet: bytes) -> Message:
    """The message in one packet; `BadMessage` says why it is none."""
    if len(packet) > MAX_BYTES:
        raise BadMessage(f"{len(packet)} bytes: a control message has at most {MAX_BYTES}")
    try:
        fields = json.loads(packet)
        kind = _KINDS[fields.pop("is")]
        message: Message = kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as wrong:
        raise BadMessage(f"{packet[:80]!r} is no control message: {wrong}") from None
    for field in dataclasses.fields(message):
        value, wanted = getattr(message, field.name), str(field.type).partition("[")[0]
        if type(value).__name__ != wanted:
            raise BadMessage(f"{field.name} = {value!r} of {type(message).__name__} is not of type {wanted}")
    return message
