"""The wire between the two TUN devices: a process that carries every packet, those of calls through `Link`.

    python -m loadtests.netem.wire '{"tuns": [3, 4], "profile": "3G", "seed": 1, "clear_ports": [], "script": []}'

`script` is [[seconds, up, down], ...]: from then on, counted from a call's first RTP packet, its two directions are
bad or not. A call is its caller's pair of UDP ports (RTP and RTCP, or ICE with all on one) and has a line of its
own, with its own random numbers. TCP and SIP pass untouched, so that set-up is no part of what is measured. Ends
when its standard input does, and writes one JSON object: what became of the packets.

One rule: nothing is decided here but which packet belongs to which line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.priority import ask_for_realtime
from loadtests.netem import profiles
from loadtests.netem.emulator import Link, LinkAccount
from media.timebase import NS_PER_S

MAX_PACKET_BYTES: Final = 2048
MAX_LINES: Final = 512
"""Calls; packets of more are dropped and counted."""
UDP: Final = 17
_PORTS = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class WirePlan:
    """What the wire does."""

    tuns: tuple[int, int]  # the caller's, the gateway's
    profile: str
    seed: int
    clear_ports: frozenset[int]
    script: tuple[tuple[float, bool, bool], ...]

    def as_json(self) -> str:
        """For the command line."""
        return json.dumps(dataclasses.asdict(self) | {"clear_ports": sorted(self.clear_ports)})

    @classmethod
    def from_json(cls, text: str) -> WirePlan:
        """The other way."""
        raw = json.loads(text)
        script = tuple((float(at_s), bool(up), bool(down)) for at_s, up, down in raw["script"])
        first, second = raw["tuns"]
        return cls((first, second), raw["profile"], raw["seed"], frozenset(raw["clear_ports"]), script)


def call_port(packet: bytes, from_caller: bool, clear_ports: frozenset[int]) -> int | None:
    """The even one of the caller's port pair for a UDP packet of a call (IPv4); None for what passes untouched."""
    if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != UDP:
        return None
    at = (packet[0] & 15) * 4
    if len(packet) < at + 8:
        return None
    source, target = _PORTS.unpack_from(packet, at)
    if source in clear_ports or target in clear_ports:
        return None
    return int(source if from_caller else target) & ~1


def is_rtp(packet: bytes) -> bool:
    """RTP rather than STUN, DTLS (RFC 7983 section 7) or RTCP (RFC 5761 section 4), in a UDP packet."""
    at = (packet[0] & 15) * 4 + 8
    return len(packet) > at + 11 and 127 < packet[at] < 192 and not 63 < (packet[at + 1] & 0x7F) < 96


class Line:
    """One call's two directions."""

    def __init__(self, plan: WirePlan, number: int, now_ns: int) -> None:
        self._plan = plan
        self._bad = [profiles.find(plan.profile, way) for way in ("up", "down")]
        seeds = (2 * (1000 * plan.seed + number), 2 * (1000 * plan.seed + number) + 1)
        pairs = zip(self._bad, seeds, strict=True)
        self.links: list[Link[bytes]] = [Link(bad.recovered, seed, now_ns) for bad, seed in pairs]
        self.began_ns: int | None = None
        self._done = 0
        self._is_bad = [False, False]

    def send(self, packet: bytes, way: int, now_ns: int) -> None:
        """`way` 0 is up: from the caller, whose first RTP packet starts the script."""
        if self.began_ns is None and way == 0 and is_rtp(packet):
            self.began_ns = now_ns
        self._follow_script(now_ns)
        self.links[way].send(packet, len(packet), now_ns)

    def _follow_script(self, now_ns: int) -> None:
        script = self._plan.script
        while self.began_ns is not None and self._done < len(script):
            at_s, *wanted = script[self._done]
            if now_ns < self.began_ns + round(at_s * NS_PER_S):
                return
            self._done += 1
            for way in (0, 1):
                if wanted[way] != self._is_bad[way]:
                    self._is_bad[way] = wanted[way]
                    bad = self._bad[way]
                    self.links[way].become(bad if wanted[way] else bad.recovered, now_ns)


class Wire:
    """All lines and the two devices."""

    def __init__(self, plan: WirePlan) -> None:
        self._plan = plan
        self._lines: dict[int, Line] = {}
        self.passed = self.refused = self.unwritten = 0
        self.max_late_ns = 0

    def run(self) -> None:
        """Until standard input ends."""
        poller = select.poll()
        for descriptor in (*self._plan.tuns, sys.stdin.fileno()):
            poller.register(descriptor, select.POLLIN)
        while True:
            deadlines = [
                at for line in self._lines.values() for link in line.links if (at := link.next_deadline())
            ]
            wait_ms = max(0.0, (min(deadlines) - time.monotonic_ns()) / 1e6) if deadlines else 1000.0
            ready = {descriptor for descriptor, _ in poller.poll(wait_ms)}
            if sys.stdin.fileno() in ready:
                return
            for way in (0, 1):
                if self._plan.tuns[way] in ready:
                    self._read(way)
            self._deliver(time.monotonic_ns())

    def _read(self, way: int) -> None:
        while True:
            try:
                packet = os.read(self._plan.tuns[way], MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            now_ns = time.monotonic_ns()
            port = call_port(packet, way == 0, self._plan.clear_ports)
            if port is None:
                self.passed += 1
                self._write(packet, way)
            elif (line := self._line(port, now_ns)) is not None:
                line.send(packet, way, now_ns)

    def _line(self, port: int, now_ns: int) -> Line | None:
        if port not in self._lines:
            if len(self._lines) >= MAX_LINES:
                self.refused += 1
                return None
            self._lines[port] = Line(self._plan, len(self._lines), now_ns)
        return self._lines[port]

    def _deliver(self, now_ns: int) -> None:
        for line in self._lines.values():
            for way, link in enumerate(line.links):
                at_ns = link.next_deadline()
                if at_ns is not None and at_ns <= now_ns:
                    self.max_late_ns = max(self.max_late_ns, now_ns - at_ns)
                    for packet in link.poll(now_ns):
                        self._write(packet, way)

    def _write(self, packet: bytes, way: int) -> None:
        try:
            os.write(self._plan.tuns[1 - way], packet)
        except OSError:  # the device is full or going down
            self.unwritten += 1

    def told(self) -> dict[str, object]:
        """What became of all packets, by direction."""
        sums = {}
        for way, name in enumerate(("up", "down")):
            accounts = [line.links[way].account for line in self._lines.values()]
            fields = [field.name for field in dataclasses.fields(LinkAccount)]
            sums[name] = {field: sum(getattr(account, field) for account in accounts) for field in fields}
        late_ms = round(self.max_late_ns / 1e6, 2)
        rest = {"lines": len(self._lines), "untouched": self.passed, "refused": self.refused}
        rest["began_ns"] = min((line.began_ns for line in self._lines.values() if line.began_ns), default=0)
        return {**sums, **rest, "unwritten": self.unwritten, "late_ms": late_ms}


def main(argv: Sequence[str]) -> int:
    """The process."""
    wire = Wire(WirePlan.from_json(argv[0]))
    ask_for_realtime()
    print("ready", flush=True)
    wire.run()
    print(json.dumps(wire.told()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
