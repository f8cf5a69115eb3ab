"""Runs the stages on its sockets: paces, probes, and keeps the books."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from loadtests.hostile.agent import RETRANSMIT_S, Agent, split_stream
from loadtests.hostile.known import (
    FLOOD_INVITES,
    FLOOD_S,
    crash_messages,
    flood_messages,
    torture_messages,
)
from loadtests.hostile.message import Address, Hop, Hostile, request, token
from loadtests.hostile.mutations import mutated_sip
from loadtests.hostile.rtp import RtpStream, mutated_rtcp, mutated_rtp

PROBE_EVERY_MESSAGES = 200
PROBE_TIMEOUT_S = 2.0
TCP_LIFE_S = 1.0  # a TCP connection carries one message and its answers
TCP_AT_ONCE = 32
TCP_SHARE = 10  # every n-th mutated message goes over TCP
KEPT_FOR_REPLAY = 200  # messages


class Silent(Exception):
    """The target did not answer a clean OPTIONS within `PROBE_TIMEOUT_S`."""


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket with an agent behind it."""

    def __init__(self, agent_of: Callable[[Address], Agent], target: Address) -> None:
        self._agent_of = agent_of
        self._target = (target.host, target.port)
        self.seen: dict[str, asyncio.Future[None]] = {}  # branch of a probe -> its answer
        self.agent: Agent
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # the loop's own is no subclass in 3.11
        self.agent = self._agent_of(Address(*transport.get_extra_info("sockname")[:2]))

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        for branch, answer in self.seen.items():
            if branch.encode() in data and not answer.done():
                answer.set_result(None)
        for reply in self.agent.receive(data, time.monotonic()):
            self.send(reply)

    def send(self, data: bytes) -> None:
        self.transport.sendto(data, self._target)


def udp_socket(host: str, port: int = 0) -> socket.socket:
    """A bound UDP socket with a receive buffer for bursts; raises OSError if the port is taken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


@dataclass(slots=True)
class Stage:
    """A line of the report."""

    name: str
    sent: int = 0
    seconds: float = 0.0
    probes: int = 0
    slowest_probe_ms: float = 0.0


@dataclass(slots=True)
class Options:
    """The command line, checked."""

    target: Address
    rtp_targets: tuple[Address, ...] = ()
    sip: int = 10_000
    rtp: int = 10_000
    seed: int = 1
    rate_hz: float = 500.0
    torture: Path | None = None
    rtp_seeds: tuple[bytes, ...] = ()
    rtcp_seeds: tuple[bytes, ...] = ()
    source: str = "127.0.0.1"
    replay: Path | None = None


class Sender:
    """Runs the stages: paces, probes, and keeps the books."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.codes: Counter[str] = Counter()
        self.stages: list[Stage] = []
        self.agents: list[Agent] = []
        self.tcp_refused = False
        self._due = 0.0
        self._last: deque[bytes] = deque(maxlen=KEPT_FOR_REPLAY)
        self._tcp: set[asyncio.Task[None]] = set()
        self._rng = random.Random(
            f"{options.seed} agent"
        )  # tags and branches of answers, not of what is sent

    # -- plumbing --

    def _agent(self, local: Address, transport: str = "UDP") -> Agent:
        agent = Agent(Hop(local, self.options.target, transport), self._rng, self.codes)
        self.agents.append(agent)
        return agent

    async def _open(self, host: str, port: int = 0) -> Datagrams:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(self._agent, self.options.target), sock=udp_socket(host, port)
        )
        return protocol

    async def _pace(self) -> None:
        """Returns when the next message is due; after a stall at most 10 ms are made up for."""
        now = time.monotonic()
        self._due = max(self._due + 1 / self.options.rate_hz, now - 0.01)
        if self._due > now:
            await asyncio.sleep(self._due - now)
        for link in self.links:
            for data in link.agent.poll(now):
                link.send(data)

    async def _probe(self, stage: Stage) -> None:
        """A clean OPTIONS, repeated as over a lossy network; any answer will do.  Raises Silent."""
        link = self.probe_link
        branch = token(self._rng, 16)
        data = request(self._rng, link.agent.path, "OPTIONS").replace(
            b"branch=z9hG4bK", b"branch=z9hG4bK" + branch.encode()
        )
        answer = asyncio.get_running_loop().create_future()
        link.seen[branch] = answer
        begin = time.monotonic()
        try:
            while not answer.done():
                left = begin + PROBE_TIMEOUT_S - time.monotonic()
                if left <= 0:
                    raise Silent
                link.send(data)
                await asyncio.wait((answer,), timeout=min(RETRANSMIT_S, left))
        finally:
            del link.seen[branch]
            stage.probes += 1
            stage.slowest_probe_ms = max(stage.slowest_probe_ms, (time.monotonic() - begin) * 1000)

    async def _deliver(self, message: Hostile, link: Datagrams) -> None:
        self._last.append(message.data)
        if message.transport == "TCP" and not self.tcp_refused and len(self._tcp) < TCP_AT_ONCE:
            task = asyncio.create_task(self._over_tcp(message.data))
            self._tcp.add(task)
            task.add_done_callback(self._tcp.discard)
        else:
            link.send(message.data)

    async def _over_tcp(self, data: bytes) -> None:
        """One connection for one message; lives `TCP_LIFE_S`, or until the target closes it."""
        target = self.options.target
        try:
            reader, writer = await asyncio.open_connection(
                target.host, target.port, local_addr=(self.options.source, 0)
            )
        except OSError:
            self.tcp_refused = True
            return
        agent = self._agent(Address(*writer.get_extra_info("sockname")[:2]), "TCP")
        buffer = bytearray()
        try:
            async with asyncio.timeout(TCP_LIFE_S):
                writer.write(data)
                while chunk := await reader.read(65536):
                    buffer += chunk
                    for message in split_stream(buffer):
                        for reply in agent.receive(message, time.monotonic()):
                            writer.write(reply)
        except (OSError, TimeoutError):
            pass  # the target's right with such messages
        finally:
            writer.close()

    async def _run(self, name: str, messages: Iterator[Hostile], link: Datagrams) -> None:
        stage = Stage(name)
        self.stages.append(stage)
        begin = time.monotonic()
        try:
            for message in messages:
                await self._pace()
                await self._deliver(message, link)
                stage.sent += 1
                if stage.sent % PROBE_EVERY_MESSAGES == 0:
                    await self._probe(stage)
            await self._probe(stage)
        finally:
            stage.seconds = time.monotonic() - begin

    # -- stages --

    async def run(self) -> bool:
        """All stages; False as soon as the target is silent, Silent if it was before the first message."""
        options = self.options
        link = await self._open(options.source)
        self.probe_link = await self._open(options.source)
        self.links = [link, self.probe_link]
        await self._probe(Stage("before"))
        alive = True
        try:
            if options.torture is not None:
                await self._run(
                    "torture", iter(torture_messages(options.torture)), await self._torture_link(link)
                )
            await self._crash(link)
            await self._run("sip", self._mutations(link.agent.path), link)
            if options.rtp_targets and options.rtp:
                await self._rtp()
            await self._settle()
        except Silent:
            alive = False
            self._keep()
        for task in self._tcp:
            task.cancel()
        await asyncio.gather(*self._tcp, return_exceptions=True)
        for one in self.links:
            one.transport.close()
        return alive

    async def _torture_link(self, link: Datagrams) -> Datagrams:
        """Torture messages have Vias without rport: answers go to port 5060 of the address they came from."""
        for host in (self.options.source, "127.0.0.2"):
            try:
                found = await self._open(host, 5060)
            except OSError:
                continue
            self.links.append(found)
            return found
        return link

    async def _crash(self, link: Datagrams) -> None:
        rng = random.Random(f"{self.options.seed} crash")
        path = link.agent.path
        tcp = Hop(path.local, path.target, "TCP")
        await self._run("crash", iter(crash_messages(rng, path, tcp)), link)
        stage = self.stages[-1]
        begin = time.monotonic()
        for message in flood_messages(rng, path):
            self._last.append(message.data)
            link.send(message.data)
            stage.sent += 1
            await asyncio.sleep(FLOOD_S / FLOOD_INVITES)
        await self._probe(stage)
        stage.seconds += time.monotonic() - begin

    def _mutations(self, path: Hop) -> Iterator[Hostile]:
        rng = random.Random(f"{self.options.seed} sip")
        tcp = Hop(path.local, path.target, "TCP")
        for index in range(self.options.sip):
            yield mutated_sip(rng, tcp if index % TCP_SHARE == TCP_SHARE - 1 else path)

    async def _rtp(self) -> None:
        options = self.options
        rng = random.Random(f"{options.seed} rtp")
        streams = {target: RtpStream.start(rng) for target in options.rtp_targets}
        stage = Stage("rtp")
        self.stages.append(stage)
        begin = time.monotonic()
        with udp_socket(options.source) as sock:
            for index in range(options.rtp):
                await self._pace()
                target = rng.choice(options.rtp_targets)
                rtcp = rng.random() < 0.25
                data = (mutated_rtcp if rtcp else mutated_rtp)(
                    rng, streams[target], options.rtcp_seeds if rtcp else options.rtp_seeds
                )
                # RTCP at its own port and, as with rtcp-mux (RFC 5761), at the media port.
                port = target.port + (1 if rtcp and rng.random() < 0.7 else 0)
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    sock.sendto(data, (target.host, port))
                stage.sent += 1
                if (index + 1) % PROBE_EVERY_MESSAGES == 0:
                    await self._probe(stage)
        await self._probe(stage)
        stage.seconds = time.monotonic() - begin

    async def _settle(self) -> None:
        """Waits until every call that came about is ended, or given up."""
        while any(link.agent.waiting for link in self.links) or self._tcp:
            await asyncio.sleep(0.05)
            await self._pace()

    def _keep(self) -> None:
        if self.options.replay is not None:
            self.options.replay.mkdir(parents=True, exist_ok=True)
            for index, data in enumerate(self._last):
                (self.options.replay / f"{index:03d}.bin").write_bytes(data)
