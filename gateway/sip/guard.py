# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may begin something at the SIP edge, asked before a message is parsed: sans-IO, time is an argument.

    of a call that lives? ------------------------------------------------> PASS, whoever sends it
    from outside `allow`? ------------------------------------------------> DROP (a stranger: silence)
    an ACK of no call, which would do nothing ----------------------------> DROP
    User-Agent of a scanner? ---------------------------------------------> DROP
    from `unlimited` -----------------------------------------------------> PASS
    a token in the bucket of its source ----------------------------------> PASS
    none: the level falls on, below nothing ------------------------------> REFUSE an INVITE (503), DROP others
    as many below nothing as a bucket holds: silent for `silence_s` ------> DROP

What belongs to no call that lives begins something, whatever its method is: a BYE for a call that is not
there costs an answer, too.  A Call-ID is not to be guessed, so nobody passes by naming one.

There are `most_sources` buckets.  A source that was not heard for a minute, or for `silence_s` where that is more,
makes room for a new one; while there is none, all new ones share one bucket, and those that are known keep theirs
(and their silence): who forges addresses does not make us forget anybody.

One rule: nothing is looked at but the head's octets, and nothing here raises for what a peer sends.
"""

from __future__ import annotations

import enum
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from gateway.sip.flows import Flow
from gateway.sip.message import MAX_MESSAGE_BYTES
from gateway.sip.timers import SECOND_NS
from gateway.sources import Networks, source_of

SCANNERS: Final = (
    "friendly-scanner", "friendly-request", "sipvicious", "sundayddr", "sip-scan", "sipcli", "pplsip",
)  # fmt: skip
"""User-Agents of programs that look for open exchanges.  `sipsak` is not among them: operators watch with it."""
BURST_S: Final = 4
"""A bucket holds so many seconds' worth: an office starts its day, a carrier comes back after an outage."""
MOST_SOURCES: Final = 16_384
FORGET_NS: Final = 60 * SECOND_NS
TELL_NS: Final = 60 * SECOND_NS
"""From one line of log about a source to the next."""
MOST_TOLD: Final = 60
"""Sources that are told of in that time; what others send is counted (`untold`)."""
MOST_KNOWN: Final = 4096
"""Addresses whose rights are kept ready; all of them are forgotten beyond it."""
LEAST_PATTERN, MOST_PATTERN = 3, 64
CROWD: Final = "(more sources than are kept)"

_CALL_ID = re.compile(rb"\r\n(?:call-id|i)[ \t]*:\s*(\S+)")
_USER_AGENT = re.compile(rb"\r\nuser-agent[ \t]*:((?:[^\r\n]|\r\n[ \t])*)")
_BEGINNING: Final = (
    b"INVITE",
    b"REGISTER",
    b"OPTIONS",
    b"SUBSCRIBE",
    b"NOTIFY",
    b"PUBLISH",
    b"MESSAGE",
    b"REFER",
)


class Verdict(enum.Enum):
    """What becomes of a message."""

    PASS = enum.auto()
    REFUSE = enum.auto()
    """503, with `retry_s` of the guard."""
    DROP = enum.auto()


class Standing(enum.Enum):
    """Of a Call-ID at the edge."""

    UNKNOWN = enum.auto()
    LIVES = enum.auto()
    OVER = enum.auto()
    """Still remembered for its retransmissions."""


class Standings(Protocol):
    """Who knows which calls there are: the router."""

    def standing(self, call_id: bytes) -> Standing: ...


@dataclass(frozen=True, slots=True)
class GuardRules:
    """What the operator says.  Raises ValueError for networks and patterns that are none.

    Only `allow` may begin anything; empty is everybody.  `per_s` is what one source may begin in a second (0: no
    limit), in bursts of `BURST_S` times as many; `unlimited` networks are not held to it.  `scanners` are found
    anywhere in a User-Agent, in any case, `*` stands for anything; they come on top of `SCANNERS`.
    """

    allow: tuple[str, ...] = ()
    unlimited: tuple[str, ...] = ()
    per_s: int = 0
    silence_s: int = 60
    scanners: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Networks((*self.allow, *self.unlimited))
        if self.per_s < 0 or self.silence_s < 0:
            raise ValueError(f"per_s = {self.per_s} and silence_s = {self.silence_s} must not be negative")
        for pattern in self.scanners:
            check_pattern(pattern)


@dataclass(slots=True)
class GuardCounters:
    """Events since the start, for metrics; only ever counted up."""

    strangers: int = 0  # messages and connections from outside of sip_allow
    scanners: int = 0  # messages with a scanner's User-Agent
    refused: int = 0  # INVITEs beyond the rate of their source, answered 503
    limited: int = 0  # other messages beyond it, dropped
    silenced: int = 0  # messages of sources that are silent, dropped
    silences: int = 0  # how often a source was silenced
    crowded: int = 0  # messages of sources for which there was no bucket
    stray_acks: int = 0  # ACKs of calls that are not there
    untold: int = 0  # messages not heard that no line of log has, since too many sources had one


Why = Literal["stranger", "scanner", "rate", "silence"]


class Note(NamedTuple):
    """One line of log: so many messages of a source were not heard, since the last line about it."""

    source: str
    why: Why
    messages: int


@dataclass(slots=True)
class _Bucket:
    """Of one source: tokens at `filled_ns`."""

    level: float
    filled_ns: int
    heard_ns: int
    silent_until_ns: int = 0


class Guard:
    """Of one edge.  After each `judge` and at `next_deadline`, `poll` gives what is to be logged."""

    def __init__(self, rules: GuardRules, calls: Standings, most_sources: int = MOST_SOURCES) -> None:
        self.counters = GuardCounters()
        self.retry_s = 1
        """Of the message that was just refused."""
        self._calls = calls
        self._allow, self._unlimited = Networks(rules.allow), Networks(rules.unlimited)
        self._scanner = _either((*SCANNERS, *rules.scanners))
        self._per_s, self._burst = rules.per_s, float(rules.per_s * BURST_S)
        self._silence_ns = rules.silence_s * SECOND_NS
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the one not heard for longest first
        self._most = most_sources
        self._crowd = _Bucket(self._burst, 0, 0)
        self._known: dict[str, _Rights] = {}
        self._log = _Log(self.counters)

    @property
    def sources(self) -> int:
        """How many have a bucket."""
        return len(self._buckets)

    def allows(self, host: str, now_ns: int) -> bool:
        """Whether somebody there may open a connection; a stranger's is counted."""
        rights = self._rights(host)
        if not rights.allowed:
            self.counters.strangers += 1
            self._log.note(rights.source, "stranger", now_ns)
        return rights.allowed

    def judge(self, data: bytes, source: Flow, now_ns: int) -> Verdict:
        """A message from outside, of which at least the head is there."""
        method, call_id, agent = _look(data)
        standing = Standing.UNKNOWN if call_id is None else self._calls.standing(call_id)
        if standing is Standing.LIVES or (standing is Standing.OVER and method not in _BEGINNING):
            return Verdict.PASS
        rights = self._rights(source.host)
        if not rights.allowed:
            self.counters.strangers += 1
            return self._drop(rights, "stranger", now_ns)
        if method == b"ACK":
            self.counters.stray_acks += 1
            return Verdict.DROP
        if agent and self._scanner.search(agent):
            self.counters.scanners += 1
            return self._drop(rights, "scanner", now_ns)
        if rights.unlimited or not self._per_s:
            return Verdict.PASS
        return self._spend(rights, method == b"INVITE", now_ns)

    def poll(self, now_ns: int) -> list[Note]:
        """What is to be logged now."""
        return self._log.take(now_ns)

    def next_deadline(self) -> int | None:
        """When `poll` is due (monotonic ns), or None.  In the past means at once."""
        return self._log.due_ns()

    def _spend(self, rights: _Rights, is_invite: bool, now_ns: int) -> Verdict:
        bucket = self._bucket(rights.source, now_ns)
        if now_ns < bucket.silent_until_ns:
            self.counters.silenced += 1
            return self._drop(rights, "silence", now_ns)
        since_ns = max(0, now_ns - max(bucket.filled_ns, bucket.silent_until_ns))
        bucket.filled_ns = now_ns
        bucket.level = min(self._burst, bucket.level + since_ns * self._per_s / SECOND_NS)
        if bucket.level >= 1.0:
            bucket.level -= 1.0
            return Verdict.PASS
        if bucket is not self._crowd:
            bucket.level = max(-self._burst, bucket.level - 1.0)
            if self._silence_ns and bucket.level == -self._burst:
                self.counters.silences += 1
                bucket.silent_until_ns, bucket.level = now_ns + self._silence_ns, 0.0
            elif is_invite:
                self.counters.refused += 1
                self.retry_s = math.ceil((1.0 - bucket.level) / self._per_s)
                self._log.note(rights.source, "rate", now_ns)
                return Verdict.REFUSE
        self.counters.limited += 1
        return self._drop(rights, "rate", now_ns)

    def _drop(self, rights: _Rights, why: Why, now_ns: int) -> Verdict:
        self._log.note(rights.source, why, now_ns)
        return Verdict.DROP

    def _bucket(self, source: str, now_ns: int) -> _Bucket:
        found = self._buckets.get(source)
        if found is not None:
            self._buckets.move_to_end(source)
            found.heard_ns = now_ns
        elif len(self._buckets) < self._most or self._forget_oldest(now_ns):
            found = self._buckets[source] = _Bucket(self._burst, now_ns, now_ns)
        else:
            self.counters.crowded += 1
            found = self._crowd
        return found

    def _forget_oldest(self, now_ns: int) -> bool:
        source, oldest = next(iter(self._buckets.items()))
        if now_ns - oldest.heard_ns < max(FORGET_NS, self._silence_ns):
            return False
        del self._buckets[source]
        return True

    def _rights(self, host: str) -> _Rights:
        """Of an address; kept, since it takes microseconds to find out."""
        found = self._known.get(host)
        if found is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            allowed = not self._allow or host in self._allow
            found = self._known[host] = _Rights(source_of(host), allowed, host in self._unlimited)
        return found


class _Rights(NamedTuple):
    """What an address may do, and what it counts as."""

    source: str
    allowed: bool
    unlimited: bool


@dataclass(slots=True)
class _Told:
    """A source that the log has a line about."""

    told_ns: int
    why: Why
    untold: int = 0


class _Log:
    """At most one line a source and `TELL_NS`: the first message that is dropped is told at once, what follows
    when the time is over, as a number."""

    def __init__(self, counters: GuardCounters) -> None:
        self._counters = counters
        self._now: list[Note] = []
        self._told: OrderedDict[str, _Told] = OrderedDict()  # the one told first goes first

    def note(self, source: str, why: Why, now_ns: int) -> None:
        """A message that is not heard."""
        self._expire(now_ns)
        told = self._told.get(source)
        if told is not None:
            told.untold += 1
            told.why = why
        elif len(self._told) < MOST_TOLD:
            self._tell(source, why, 1, now_ns)
        else:
            self._counters.untold += 1

    def take(self, now_ns: int) -> list[Note]:
        """The lines that are due."""
        self._expire(now_ns)
        out, self._now = self._now, []
        return out

    def due_ns(self) -> int | None:
        """When `take` gives something; in the past means at once."""
        return 0 if self._now else self._next_ns()

    def _next_ns(self) -> int | None:
        first = next(iter(self._told.values()), None)
        return None if first is None else first.told_ns + TELL_NS

    def _expire(self, now_ns: int) -> None:
        while (due_ns := self._next_ns()) is not None and due_ns <= now_ns:
            source, told = self._told.popitem(last=False)
            if told.untold:
                self._tell(source, told.why, told.untold, now_ns)

    def _tell(self, source: str, why: Why, messages: int, now_ns: int) -> None:
        self._now.append(Note(source, why, messages))
        self._told[source] = _Told(now_ns, why)


def check_pattern(pattern: str) -> None:
    """`ValueError` for a User-Agent that is none, or that nearly everybody has."""
    letters = pattern.replace("*", "")
    if not (len(letters) >= LEAST_PATTERN and len(pattern) <= MOST_PATTERN):
        raise ValueError(
            f"{pattern!r}: expected {LEAST_PATTERN} to {MOST_PATTERN} letters of a User-Agent beside *, "
            "such as friendly-scanner"
        )
    if not (pattern.isascii() and pattern.isprintable()):
        raise ValueError(f"{pattern!r}: expected ASCII letters, digits and signs, such as friendly-scanner")


def _either(patterns: Iterable[str]) -> re.Pattern[bytes]:
    """Any of them, in small letters."""
    parts = (b"[^\r\n]*?".join(re.escape(part) for part in p.lower().encode().split(b"*")) for p in patterns)
    return re.compile(b"|".join(parts))


def _look(data: bytes) -> tuple[bytes, bytes | None, bytes]:
    """Method ("SIP/2.0" of a response), Call-ID and User-Agent in small letters, as far as the head has them."""
    data = data[:MAX_MESSAGE_BYTES].lstrip(b"\r\n")
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[: end + 2]
    small = head.lower()
    found = _CALL_ID.search(small)
    agent = _USER_AGENT.search(small)
    return (
        head[:16].split(b" ", 1)[0],
        head[slice(*found.span(1))] if found else None,
        agent[1] if agent else b"",
    )
