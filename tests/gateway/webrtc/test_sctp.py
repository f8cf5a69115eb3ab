"""The door in front of aiortc's SCTP: what a peer with keys could do to the loop, and what it may still do."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Awaitable, Callable

import pytest
from aiortc import RTCDataChannel, RTCSctpCapabilities, RTCSctpTransport
from aiortc.rtcdatachannel import RTCDataChannelParameters
from aiortc.rtcsctptransport import serialize_packet

from gateway.webrtc import sctp
from gateway.webrtc.sctp import MAX_HELD, MAX_PACKET_BYTES, MAX_STREAMS, TSN_WINDOW, Sctp, split

BEGIN, END, WHOLE = 2, 1, 3


class Wire:
    """As much of a DTLS transport as SCTP asks for; `far` gets what is sent, in a later step of the loop."""

    def __init__(self, role: str) -> None:
        self._role, self.state = role, "connected"
        self.far: RTCSctpTransport | None = None
        self.sent: list[bytes] = []

    async def _send_data(self, data: bytes) -> None:
        self.sent.append(data)
        if self.far is not None:
            asyncio.get_running_loop().create_task(self.far._handle_data(data))

    def _register_data_receiver(self, receiver: object) -> None:
        pass

    def _unregister_data_receiver(self, receiver: object) -> None:
        pass


class Pair:
    """Our end, and aiortc's own as the browser, connected."""

    def __init__(self) -> None:
        self.refused = self.failed = 0
        ours, theirs = Wire("server"), Wire("client")
        self.ours = Sctp(ours, self._refuse, self._fail)
        self.theirs = RTCSctpTransport(theirs)  # type: ignore[arg-type]
        ours.far, theirs.far = self.theirs, self.ours
        self.wire = theirs
        self.channels: list[RTCDataChannel] = []
        self.heard: list[object] = []
        self.ours.on("datachannel", self._opened)

    def _refuse(self) -> None:
        self.refused += 1

    def _fail(self) -> None:
        self.failed += 1

    def _opened(self, channel: RTCDataChannel) -> None:
        self.channels.append(channel)
        channel.on("message", self.heard.append)

    async def connect(self) -> Pair:
        capabilities = RTCSctpCapabilities(maxMessageSize=65536)
        await asyncio.gather(self.ours.start(capabilities, 5000), self.theirs.start(capabilities, 5000))
        await self.until(lambda: self.ours.state == self.theirs.state == "connected")
        return self

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.001)

    def packet(self, *chunks: bytes, tag: int | None = None) -> bytes:
        """A packet of the peer's with a right checksum."""

        class Chunks:
            def __bytes__(self) -> bytes:
                return b"".join(chunks)

        tag = self.ours._local_verification_tag if tag is None else tag
        return serialize_packet(5000, 5000, tag, Chunks())  # type: ignore[arg-type]

    def data(self, ahead: int, stream: int = 1, flags: int = WHOLE, size: int = 4) -> bytes:
        """A DATA chunk so far after the last one that was received."""
        assert self.ours._last_received_tsn is not None
        tsn = (self.ours._last_received_tsn + ahead) & 0xFFFFFFFF
        return chunk(0, struct.pack("!LHHL", tsn, stream, 0, 51) + b"x" * size, flags)

    async def hand(self, *chunks: bytes) -> None:
        await self.ours._handle_data(self.packet(*chunks))

    async def stop(self) -> None:
        await self.ours.stop()
        await self.theirs.stop()


def chunk(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("!BBH", kind, flags, len(body) + 4) + body + bytes(-len(body) % 4)


def with_pair(story: Callable[[Pair], Awaitable[None]]) -> None:
    async def run() -> None:
        pair = await Pair().connect()
        try:
            await story(pair)
        finally:
            await pair.stop()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_peer_that_keeps_to_the_rules_is_never_refused() -> None:
    async def story(pair: Pair) -> None:
        wanted = RTCDataChannel(pair.theirs, RTCDataChannelParameters(label="microturn", id=2))
        await pair.until(lambda: bool(pair.channels) and wanted.readyState == "open")
        said: list[object] = ["é" * 30_000, *(f"{number}" for number in range(40)), b"\x00\x01"]
        for message in said:
            wanted.send(message)  # type: ignore[arg-type]
        await pair.until(lambda: len(pair.heard) == len(said))
        assert pair.heard == said
        answers: list[object] = []
        wanted.on("message", answers.append)
        pair.channels[0].send("y" * 60_000)
        await pair.until(lambda: bool(answers))
        wanted.close()
        await pair.until(lambda: wanted.readyState == "closed")
        assert (pair.refused, pair.failed) == (0, 0)

    with_pair(story)


ZERO = struct.pack("!HH", 7, 0)


@pytest.mark.parametrize(
    "chunks",
    [
        chunk(4, ZERO),  # a parameter of length 0: aiortc would read it for ever
        chunk(6, ZERO),
        chunk(9, struct.pack("!HH", 1, 3)),
        chunk(1, bytes(16) + ZERO),
        chunk(130, struct.pack("!HH", 13, 400)),
        chunk(130, struct.pack("!HH", 13, 4)),
        chunk(130, struct.pack("!HH", 13, 17) + bytes(13)),
        chunk(3, struct.pack("!LLHH", 0, 0, 2, 0) + struct.pack("!HHHH", 1, 60_000, 1, 60_000)),
        chunk(3, struct.pack("!LLHH", 0, 0, 1, 0) + struct.pack("!HH", 9, 1)),
        chunk(3, struct.pack("!LLHH", 0, 0, 9, 9)),
        chunk(3, bytes(3)),
        chunk(0, bytes(11)),
        chunk(0, bytes(12)),
        chunk(7, b""),
        chunk(192, bytes(6)),
        chunk(1, bytes(16)) + chunk(1, bytes(16)),
        b"\x00\x00\x00\x03",
        b"\x00\x00\xff\xff",
        b"\x00",
    ],
)
def test_what_aiortc_would_choke_on_is_refused_unread(chunks: bytes) -> None:
    assert split(bytes(12) + chunks) is None

    async def story(pair: Pair) -> None:
        began = time.monotonic()
        await pair.hand(chunks)
        assert (pair.refused, pair.failed) == (1, 0)
        assert time.monotonic() - began < 0.1

    with_pair(story)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the bounds of what is held are looked at, not how fast it comes."""
    monkeypatch.setattr(sctp, "CHUNKS_PER_S", 10**9)


@pytest.mark.usefixtures("hasty")
def test_gaps_and_messages_without_end_are_held_up_to_a_bound() -> None:
    async def story(pair: Pair) -> None:
        ours = pair.ours
        for ahead in range(2, 4 * TSN_WINDOW, 2):
            await pair.hand(pair.data(ahead))
        assert len(ours._sack_misordered) == TSN_WINDOW // 2
        assert pair.refused == TSN_WINDOW * 2 - 1 - TSN_WINDOW // 2
        for _ in range(4 * MAX_HELD):
            await pair.hand(pair.data(1, stream=3, flags=BEGIN))
        held = sum(len(stream.reassembly) for stream in ours._inbound_streams.values())
        assert held <= MAX_HELD

    with_pair(story)


@pytest.mark.usefixtures("hasty")
def test_streams_are_few() -> None:
    async def story(pair: Pair) -> None:
        for stream in range(4 * MAX_STREAMS):
            await pair.hand(pair.data(1, stream))
        assert len(pair.ours._inbound_streams) == MAX_STREAMS
        refused = pair.refused
        skipped = struct.pack("!L", pair.ours._last_received_tsn) + struct.pack("!HH", 9000, 1)
        await pair.hand(chunk(192, skipped))
        assert pair.refused == refused + 1 and len(pair.ours._inbound_streams) == MAX_STREAMS

    with_pair(story)


def test_packets_are_held_to_a_rate_and_a_size() -> None:
    async def story(pair: Pair) -> None:
        for _ in range(3 * sctp.CHUNKS_PER_S):
            await pair.hand(chunk(4, struct.pack("!HH", 1, 8) + b"beat"))
        assert 2 * sctp.CHUNKS_PER_S > pair.refused > 1.5 * sctp.CHUNKS_PER_S
        refused = pair.refused
        await pair.ours._handle_data(bytes(MAX_PACKET_BYTES + 1))
        assert pair.refused == refused + 1

    with_pair(story)


def test_what_fails_behind_the_door_fails_alone() -> None:
    async def story(pair: Pair) -> None:
        opened = struct.pack("!BBHLHH", 3, 0, 0, 0, 2, 0) + b"\xff\xff"  # a label that is no UTF-8
        tsn = pair.ours._last_received_tsn
        assert tsn is not None
        await pair.hand(chunk(0, struct.pack("!LHHL", (tsn + 1) & 0xFFFFFFFF, 1, 0, 50) + opened, WHOLE))
        assert pair.failed == 1
        wanted = RTCDataChannel(pair.theirs, RTCDataChannelParameters(label="microturn", id=4))
        assert pair.ours.state == "connected" and wanted.label == "microturn"

    with_pair(story)


def test_data_before_an_association_is_nothing() -> None:
    async def story() -> int:
        refused: list[None] = []
        ours = Sctp(Wire("server"), lambda: refused.append(None), lambda: None)
        for kind, body in ((0, bytes(13)), (3, bytes(12)), (192, bytes(4)), (130, b"")):
            data = serialize_packet(5000, 5000, ours._local_verification_tag, Raw(chunk(kind, body)))  # type: ignore[arg-type]
            await ours._handle_data(data)
        return len(refused)

    assert asyncio.run(story()) == 4


class Raw:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


@pytest.mark.usefixtures("hasty")
def test_mutated_packets_with_right_checksums_neither_raise_nor_grow() -> None:
    chance = random.Random(11)

    async def story(pair: Pair) -> None:
        ours = pair.ours
        for _ in range(3000):
            stream, tsn = chance.randrange(80), chance.randrange(1 << 32)
            bodies = [
                pair.data(chance.randrange(-3, 200), stream, chance.randrange(8), 1 + chance.randrange(900)),
                chunk(3, struct.pack("!LLHHHH", tsn, 0, 1, 0, 1, chance.randrange(9000))),
                chunk(192, struct.pack("!L", tsn)),
                chunk(130, struct.pack("!HHLLLH", 13, 18, chance.randrange(9), 0, 0, stream) + bytes(2)),
                chunk(
                    chance.choice((1, 2, 4, 5, 9, 10, 11, 130)), chance.randbytes(4 * chance.randrange(12))
                ),
            ]
            data = bytearray(chance.choice(bodies))
            for _ in range(chance.choice((0, 0, 1, 4))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            await pair.hand(bytes(data))
        held = sum(len(stream.reassembly) for stream in ours._inbound_streams.values())
        assert held <= MAX_HELD and len(ours._inbound_streams) <= MAX_STREAMS + 1
        assert pair.refused > 500

    with_pair(story)
