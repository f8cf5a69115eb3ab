"""ICE-TCP: framing and its bounds, real agents behind a bridge, and streams that mean harm."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest
from aioice import Candidate, stun

from gateway.webrtc.ice import IceServer, IceSettings
from gateway.webrtc.ice_tcp import (
    MAX_FRAME_BYTES,
    MAX_FRAMES,
    MAX_SILENT_FRAMES,
    MAX_UNSENT_BYTES,
    FrameReader,
    frame,
)
from tests.support.ice_peer import (
    DTLS,
    PATIENCE_S,
    RTP,
    Bridge,
    Clock,
    check,
    full_agent,
    nominated,
    reachable,
    running,
)

TCP_ONLY = IceSettings(tcp_port=0, tcp_only=True)


class Stream:
    """An active ICE-TCP end that sends what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, server: IceServer) -> Stream:
        return cls(*await asyncio.open_connection("127.0.0.1", server.tcp_port))

    def send(self, data: bytes) -> None:
        self.writer.write(frame(data))

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(2), "big"))

    async def ask(self, data: bytes) -> stun.Message:
        self.send(data)
        return stun.parse_message(await self.receive())

    async def is_closed_by_peer(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True

    def close(self) -> None:
        self.writer.close()


def test_frames_come_out_whole_however_the_stream_is_cut() -> None:
    random.seed(4571)
    sent = [random.randbytes(random.choice([1, 2, 700, MAX_FRAME_BYTES])) for _ in range(200)]
    stream = b"".join(frame(data) for data in sent)
    reader, got, at = FrameReader(), [], 0
    while at < len(stream):
        size = random.choice([1, 2, 3, 500, 5_000])
        got += reader.feed(stream[at : at + size])
        at += size
    assert got == sent and not reader.is_broken


def test_empty_frames_are_left_out_and_long_ones_break_the_stream() -> None:
    reader = FrameReader()
    assert reader.feed(b"\0\0\0\0" + frame(b"x")) == [b"x"] and not reader.is_broken
    assert reader.feed(frame(b"y") + (MAX_FRAME_BYTES + 1).to_bytes(2, "big") + frame(b"z")) == [b"y"]
    assert reader.is_broken and reader.feed(frame(b"z")) == []


def test_more_frames_at_once_than_a_call_sends_break_the_stream() -> None:
    assert len(FrameReader().feed(frame(b"x") * MAX_FRAMES)) == MAX_FRAMES
    for flood in (frame(b"x"), frame(b"")):
        reader = FrameReader()
        assert len(reader.feed(flood * 100_000)) <= MAX_FRAMES and reader.is_broken


def test_a_stream_that_only_floods_is_closed() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server:
            stream = await Stream.to(server)
            for _ in range(2 * MAX_SILENT_FRAMES):
                stream.send(b"\0\1")
            assert await stream.is_closed_by_peer()
            assert server.counters.tcp_silent == 1
            assert server.counters.stun_other + server.counters.bad_stun <= MAX_SILENT_FRAMES
            stream.close()

    asyncio.run(story())


@pytest.mark.usefixtures("loopback")
def test_a_full_agent_connects_over_tcp_and_datagrams_pass_both_ways() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server, Bridge.to("127.0.0.1", server.tcp_port) as bridge:
            connection = server.new_connection()
            agent = full_agent(connection)
            await connection.gather_candidates()
            assert [c.transport for c in connection.local_candidates] == ["tcp"]
            await agent.gather_candidates()
            await agent.add_remote_candidate(Candidate("1", 1, "udp", 1, "127.0.0.1", bridge.port, "host"))
            await agent.add_remote_candidate(None)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(agent.connect(), connection.connect())
            await agent.send(DTLS)
            assert await connection.recv() == DTLS
            assert connection.send_now(RTP) and await agent.recv() == RTP
            assert server.counters.datagrams == 0 and bridge.frames >= 2
            await agent.close()

    asyncio.run(story())


def test_rtp_over_tcp_is_handed_over_at_once() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server:
            stream = await Stream.to(server)
            connection = await nominated(server, stream)
            heard: list[bytes] = []
            connection.on_rtp = lambda data, arrival_ns: heard.append(data)
            stream.send(RTP)
            stream.send(DTLS)
            assert await connection.recv() == DTLS and heard == [RTP]
            stream.close()

    asyncio.run(story())


def test_the_peer_may_leave_its_stream_and_come_back_on_another() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server:
            stream = await Stream.to(server)
            connection = await nominated(server, stream)
            stream.close()
            again = await Stream.to(server)
            await again.ask(check(connection))
            assert connection.send_now(RTP) and await again.receive() == RTP
            assert connection.alive
            again.close()

    asyncio.run(story())


def test_a_lost_stream_is_no_path() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server:
            stream = await Stream.to(server)
            connection = await nominated(server, stream)
            stream.close()
            async with asyncio.timeout(PATIENCE_S):
                while connection.send_now(RTP):
                    await asyncio.sleep(0.005)
            await connection.send(RTP)  # quietly lost, as on a network: aiortc goes on
            assert server.counters.unsent >= 1

    asyncio.run(story())


def test_a_frame_too_long_closes_its_stream_only() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server:
            good, bad = await Stream.to(server), await Stream.to(server)
            connection = await nominated(server, good)
            bad.writer.write(b"\xff\xff" + bytes(100))
            assert await bad.is_closed_by_peer() and server.counters.tcp_bad_frames == 1
            good.send(DTLS)
            assert await connection.recv() == DTLS
            good.close()
            bad.close()

    asyncio.run(story())


def test_streams_without_a_valid_check_are_closed_in_time() -> None:
    async def story() -> None:
        clock = Clock()
        async with running(TCP_ONLY, clock) as server:
            good, silent, wrong = [await Stream.to(server) for _ in range(3)]
            connection = await nominated(server, good)
            assert (await wrong.ask(check(connection, password="wrong" * 5))).error_code == 401
            clock.pass_s(9.9)
            await good.ask(check(connection))
            server.check_time()
            assert server.counters.tcp_silent == 0
            clock.pass_s(0.2)
            server.check_time()
            assert await silent.is_closed_by_peer() and await wrong.is_closed_by_peer()
            assert server.counters.tcp_silent == 2
            assert connection.send_now(RTP) and await good.receive() == RTP
            for stream in (good, silent, wrong):
                stream.close()

    asyncio.run(story())


def test_streams_are_bounded_and_the_silent_make_room() -> None:
    async def story() -> None:
        settings = IceSettings(tcp_port=0, max_tcp_streams=2)
        async with running(settings) as server:
            silent = await Stream.to(server)
            first = await Stream.to(server)
            connection = await nominated(server, first)
            second = await Stream.to(server)
            await second.ask(check(connection, nominate=False))
            assert await silent.is_closed_by_peer() and server.counters.tcp_silent == 1
            refused = await Stream.to(server)
            assert await refused.is_closed_by_peer() and server.counters.tcp_refused == 1
            for stream in (silent, first, second, refused):
                stream.close()

    asyncio.run(story())


def test_what_a_peer_does_not_read_is_dropped() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", server.tcp_port))
            connection = await reachable(server)
            await loop.sock_sendall(sock, frame(check(connection)))
            assert await loop.sock_recv(sock, 2048)
            sent = sum(connection.send_now(RTP + bytes(1000)) for _ in range(2_000))
            assert server.counters.tcp_unsent == 2_000 - sent > 1_000
            assert sent * 1_000 < 1 << 20  # what is beyond MAX_UNSENT_BYTES lies in the kernel
            assert MAX_UNSENT_BYTES < 1 << 16
            sock.close()

    asyncio.run(story())


def test_closing_the_call_closes_its_streams() -> None:
    async def story() -> None:
        async with running(TCP_ONLY) as server:
            stream = await Stream.to(server)
            connection = await nominated(server, stream)
            await connection.close()
            assert await stream.is_closed_by_peer()
            stream.close()

    asyncio.run(story())


def test_a_thousand_broken_streams_touch_no_live_call() -> None:
    async def story() -> None:
        random.seed(6544)
        async with running(TCP_ONLY) as server:
            good = await Stream.to(server)
            connection = await nominated(server, good)
            bad = await Stream.to(server)
            for _ in range(1_000):
                if bad.writer.is_closing() or bad.reader.at_eof():
                    bad.close()
                    bad = await Stream.to(server)
                bad.writer.write(random.randbytes(random.randrange(1, 200)))
                await asyncio.sleep(0)
            good.send(DTLS)
            assert await connection.recv() == DTLS
            assert server.counters.errors == 0 and server.counters.tcp_bad_frames > 0
            good.close()
            bad.close()

    asyncio.run(story())
