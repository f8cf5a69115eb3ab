# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge on real sockets: UDP and TCP peers, a worker that is only a wire peer, and sipp on both sides."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.sip.edge import Edge
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.load import WorkerAddress
from gateway.sip.tls import server_context
from loadtests.ports import free_port

SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
PATIENCE_S = 10.0


def request(method: str, call_id: str, transport: str = "UDP", cseq: int = 1, tag: str = "") -> bytes:
    body = SDP if method == "INVITE" else b""
    head = (
        f"{method} sip:bot@127.0.0.1 SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} 127.0.0.1:9;branch=z9hG4bK{call_id}{cseq};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:a@x>;tag=a\r\nTo: <sip:b@x>{tag}\r\nCall-ID: {call_id}\r\n"
        f"CSeq: {cseq} {method}\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Udp(asyncio.DatagramProtocol):
    """A UDP socket that queues what it gets, or answers requests like a worker would."""

    def __init__(self, answers: bool = False) -> None:
        self.answers = answers
        self.got: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue(100)

    @classmethod
    async def open(cls, answers: bool = False) -> "Udp":
        loop = asyncio.get_running_loop()
        _, self = await loop.create_datagram_endpoint(lambda: cls(answers), local_addr=("127.0.0.1", 0))
        return self

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.put_nowait((data, addr))
        if self.answers and not data.startswith((b"SIP/2.0", b"ACK")):
            kept = re.findall(rb"(?:Via|Record-Route|From|To|Call-ID|CSeq): [^\r]*\r\n", data)
            head = b"SIP/2.0 200 OK\r\n" + b"".join(kept) + b"Content-Length: 0\r\n\r\n"
            self.transport.sendto(head, addr)

    async def next(self) -> bytes:
        return (await asyncio.wait_for(self.got.get(), PATIENCE_S))[0]


async def running_edge(story: Callable[[Edge, Udp], Awaitable[None]], **settings: Any) -> None:
    """Run `story` with an edge and one answering worker of 4 calls."""
    edge = Edge(EdgeSettings(port=0, **settings))
    await edge.start()
    worker = await Udp.open(answers=True)
    edge.add_worker(WorkerAddress("w", "127.0.0.1", worker.port, 4))
    try:
        await story(edge, worker)
        assert edge.counters.errors == 0
    finally:
        worker.transport.close()
        await edge.stop()


def with_edge(story: Callable[[Edge, Udp], Awaitable[None]], **settings: Any) -> None:
    asyncio.run(running_edge(story, **settings))


async def read_message(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)


def test_call_over_udp_and_back_to_zero() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        caller = await Udp.open()
        caller.transport.sendto(request("INVITE", "u1"), edge.address)
        ok = await caller.next()
        assert b"<sip:127.0.0.1:%d;lr>" % edge.inside_port in ok
        assert ok.startswith(b"SIP/2.0 200") and ok.count(b"Via:") == 1 and ok.count(b"Record-Route:") == 2
        assert edge.loads == {"w": 1}
        caller.transport.sendto(request("BYE", "u1", cseq=2, tag=";tag=w"), edge.address)
        assert (await caller.next()).startswith(b"SIP/2.0 200")
        assert edge.loads == {"w": 0} and edge.counters.calls_ended == 1
        caller.transport.close()

    with_edge(story)


def test_call_over_tcp_with_pings_between() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        reader, writer = await asyncio.open_connection(*edge.address)
        data = b"\r\n\r\n" + request("INVITE", "t1", "TCP")
        writer.write(data[:100])
        await writer.drain()
        assert await asyncio.wait_for(reader.readexactly(2), PATIENCE_S) == b"\r\n"
        writer.write(data[100:])
        ok = await read_message(reader)
        assert ok.startswith(b"SIP/2.0 200") and b";transport=tcp;lr>" in ok
        assert b"Via: SIP/2.0/UDP 127.0.0.1:" in await worker.next()
        writer.write(request("BYE", "t1", "TCP", 2, ";tag=w"))
        assert (await read_message(reader)).startswith(b"SIP/2.0 200")
        assert edge.loads == {"w": 0}
        writer.close()

    with_edge(story)


def test_worker_hangs_up_down_the_tcp_connection_of_the_caller() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(request("INVITE", "t2", "TCP"))
        await read_message(reader)
        _, inside = worker.got.get_nowait()
        writer.write(request("ACK", "t2", "TCP", 1, ";tag=w"))
        await worker.next()
        bye = request("BYE", "t2", "UDP", 7, ";tag=a").replace(b"127.0.0.1:9", b"127.0.0.1:%d" % worker.port)
        worker.transport.sendto(bye, inside)
        got = await read_message(reader)
        assert got.startswith(b"BYE ") and b"Via: SIP/2.0/TCP" in got
        vias = re.findall(rb"Via: [^\r]*\r\n", got)
        rest = b"From: <sip:a@x>;tag=a\r\nTo: <sip:b@x>;tag=a\r\nCall-ID: t2\r\nCSeq: 7 BYE\r\n"
        writer.write(b"SIP/2.0 200 OK\r\n" + b"".join(vias) + rest + b"Content-Length: 0\r\n\r\n")
        answer = await worker.next()
        assert answer.startswith(b"SIP/2.0 200") and answer.count(b"Via:") == 1
        assert edge.loads == {"w": 0}
        writer.close()

    with_edge(story)


def test_worker_lost_while_ringing_is_503_at_once() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        worker.answers = False
        caller = await Udp.open()
        caller.transport.sendto(request("INVITE", "r1"), edge.address)
        await worker.next()
        assert edge.remove_worker("w") == ["r1"]
        assert (await caller.next()).startswith(b"SIP/2.0 503")
        caller.transport.close()

    with_edge(story)


def test_spaced_invites_are_released_by_the_timer() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        edge.remove_worker("w")
        edge.add_worker(WorkerAddress("slow", "127.0.0.1", worker.port, 4, 50_000_000))
        caller = await Udp.open()
        for number in range(3):
            caller.transport.sendto(request("INVITE", f"s{number}"), edge.address)
        answers = [(await caller.next())[8:11] for _ in range(5)]
        assert sorted(answers) == [b"100", b"100", b"200", b"200", b"200"]
        assert edge.waiting == 0 and edge.counters.invites_delayed == 2
        caller.transport.close()

    with_edge(story)


def test_rubbish_ends_with_itself() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        caller = await Udp.open()
        for data in (b"\r\n\r\n", b"\0\0\0\0", b"rubbish", b"INVITE sip:x SIP/2.0\r\n\r\n", bytes(60_000)):
            caller.transport.sendto(data, edge.address)
        caller.transport.sendto(request("OPTIONS", "o1"), edge.address)
        assert (await caller.next()).startswith(b"SIP/2.0 200")
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
        caller.transport.close()

    with_edge(story)


def test_flood_of_rubbish_does_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        caller = await Udp.open()
        for number in range(300):
            caller.transport.sendto(b"rubbish %d" % number, edge.address)
        caller.transport.sendto(request("OPTIONS", "o1"), edge.address)
        await caller.next()
        assert logged == []
        with monkeypatch.context() as patch:  # not even one that meets a bug of ours with each datagram
            patch.setattr("gateway.sip.edge.parse", lambda data: 1 // 0)
            for _ in range(300):
                caller.transport.sendto(b"rubbish", edge.address)
            while edge.counters.errors < 300:
                await asyncio.sleep(0.01)
        assert len(logged) == 1
        edge.counters.errors = 0
        caller.transport.close()

    with capture_logs() as logged:
        asyncio.run(asyncio.wait_for(running_edge(story), PATIENCE_S))
    assert caplog.records == []


def test_pings_of_a_peer_that_is_gone_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        _, writer = await asyncio.open_connection(*edge.address)
        writer.write(request("OPTIONS", "o1", "TCP"))
        while edge.counters.messages < 1:
            await asyncio.sleep(0.01)
        (connection,) = edge._sockets.connections.values()
        connection.transport.abort()
        edge.receive(connection, b"\r\n\r\n" * 1_000, connection.flow)
        writer.close()

    with_edge(story)
    assert caplog.records == []


def test_connections_are_bounded_and_idle_ones_closed() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        first, writer = await asyncio.open_connection(*edge.address)
        writer.write(b"\r\n\r\n")
        await asyncio.wait_for(first.readexactly(2), PATIENCE_S)  # accepted
        second, other = await asyncio.open_connection(*edge.address)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(second.readexactly(1), PATIENCE_S)
        assert edge.counters.tcp_refused == 1
        assert await asyncio.wait_for(first.read(), PATIENCE_S) == b""  # idle
        writer.close()
        other.close()

    with_edge(story, max_tcp_connections=1, tcp_idle_s=0.2)


def test_connection_of_a_live_call_is_not_closed_when_idle() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(request("INVITE", "t3", "TCP"))
        await read_message(reader)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        edge.call_ended("t3")
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()

    with_edge(story, tcp_idle_s=0.05)


def test_adopted_call_ends_like_any_other() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        assert edge.adopt_call("w", "old")
        caller = await Udp.open()
        caller.transport.sendto(request("BYE", "old", cseq=9, tag=";tag=w"), edge.address)
        assert (await caller.next()).startswith(b"SIP/2.0 200")
        assert edge.loads == {"w": 0}
        caller.transport.close()

    with_edge(story)


def test_taken_port_fails_the_start_and_leaves_nothing_open() -> None:
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            edge = Edge(EdgeSettings(port=taken.getsockname()[1]))
            with pytest.raises(OSError):
                await edge.start()
            await edge.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"host": "0.0.0.0"}, {"max_tcp_connections": 0}, {"tls_port": 5061}]
)
def test_wrong_settings_stop_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        EdgeSettings(**wrong)


# ---- TLS ----


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH: no certificate to test TLS with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_call_over_tls_and_hangup_down_its_connection(
    certificate: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        client = trusting(certificate)
        client.maximum_version = version
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.tls_port, ssl=client)
        data = b"\r\n\r\n" + request("INVITE", "s1", "TLS")
        writer.write(data[:100])
        assert await asyncio.wait_for(reader.readexactly(2), PATIENCE_S) == b"\r\n"
        writer.write(data[100:])
        ok = await read_message(reader)
        assert ok.startswith(b"SIP/2.0 200")
        assert b"<sip:127.0.0.1:%d;transport=tls;lr>" % edge.tls_port in ok
        invite, inside = await worker.got.get()
        assert b"Via: SIP/2.0/UDP 127.0.0.1:" in invite
        writer.write(request("ACK", "s1", "TLS", 1, ";tag=w"))
        await worker.next()
        bye = request("BYE", "s1", "UDP", 7, ";tag=a").replace(b"127.0.0.1:9", b"127.0.0.1:%d" % worker.port)
        worker.transport.sendto(bye, inside)
        got = await read_message(reader)
        assert got.startswith(b"BYE ") and b"Via: SIP/2.0/TLS 127.0.0.1:%d;" % edge.tls_port in got
        vias = re.findall(rb"Via: [^\r]*\r\n", got)
        rest = b"From: <sip:a@x>;tag=a\r\nTo: <sip:b@x>;tag=a\r\nCall-ID: s1\r\nCSeq: 7 BYE\r\n"
        writer.write(b"SIP/2.0 200 OK\r\n" + b"".join(vias) + rest + b"Content-Length: 0\r\n\r\n")
        assert (await worker.next()).startswith(b"SIP/2.0 200")
        assert edge.loads == {"w": 0}
        writer.close()
        await asyncio.wait_for(writer.wait_closed(), PATIENCE_S)
        while edge._sockets.connections:
            await asyncio.sleep(0.01)
        assert edge.counters.tls_failed == 0

    with_edge(story, tls_context=server_context(*certificate))


def test_long_messages_over_tls_come_whole(certificate: tuple[Path, Path]) -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.tls_port, ssl=trusting(certificate))
        for number in range(200):
            writer.write(request("OPTIONS", f"o{number}", "TLS"))
        for number in range(200):
            assert b"Call-ID: o%d\r\n" % number in await read_message(reader)
        writer.close()

    with_edge(story, tls_context=server_context(*certificate))


def test_tls_1_1_is_refused(certificate: tuple[Path, Path]) -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):  # the alert: not refused on our side
            await asyncio.open_connection("127.0.0.1", edge.tls_port, ssl=old)
        assert edge.counters.tls_failed == 1

    with_edge(story, tls_context=server_context(*certificate))


def test_plain_sip_on_the_tls_port_is_dropped(certificate: tuple[Path, Path]) -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.tls_port)
        writer.write(request("INVITE", "p1", "TCP"))
        assert b"SIP" not in await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert edge.counters.messages == 0 and edge.counters.tls_failed == 1 and worker.got.empty()
        writer.close()

    with_edge(story, tls_context=server_context(*certificate))


def test_handshakes_end_in_time_and_count_among_the_connections(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sip.connection.HANDSHAKE_S", 0.3)

    async def story(edge: Edge, worker: Udp) -> None:
        silent, writer = await asyncio.open_connection("127.0.0.1", edge.tls_port)
        while edge.counters.tcp_connections < 1:
            await asyncio.sleep(0.01)
        second, other = await asyncio.open_connection(*edge.address)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(second.readexactly(1), PATIENCE_S)
        assert edge.counters.tcp_refused == 1
        assert await asyncio.wait_for(silent.read(), PATIENCE_S) == b""
        assert edge.counters.tls_failed == 1 and not edge._sockets.connections
        writer.close()
        other.close()

    with_edge(story, tls_context=server_context(*certificate), max_tcp_connections=1)


# ---- sipp on both sides ----


async def sipp(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "sipp", *arguments, "-i", "127.0.0.1", "-nostdin",
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def answers_options(port: int) -> None:
    """Wait until the sipp server has bound its port."""
    for _ in range(200):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return
        await asyncio.sleep(0.025)
    raise AssertionError("sipp did not bind its port")


@pytest.mark.sip
@pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is not on PATH")
@pytest.mark.parametrize("transport", ["u1", "t1", "l1"])
def test_sipp_calls_sipp_through_the_edge(
    tmp_path: Path, transport: str, request: pytest.FixtureRequest
) -> None:
    tls, keys = None, []
    if transport == "l1":
        with_tls = subprocess.run(["sipp", "-v"], capture_output=True, text=True).stdout
        if "TLS" not in with_tls:
            pytest.skip("this sipp is built without TLS")
        certificate = request.getfixturevalue("certificate")
        tls, keys = (
            server_context(*certificate),
            ["-tls_cert", str(certificate[0]), "-tls_key", str(certificate[1])],
        )

    async def run() -> None:
        port = free_port()
        server = await sipp(tmp_path, "-sn", "uas", "-p", str(port))
        edge = Edge(EdgeSettings(port=0, tls_context=tls))
        await edge.start()
        edge.add_worker(WorkerAddress("sipp", "127.0.0.1", port, 20))
        try:
            await answers_options(port)
            client = await sipp(
                tmp_path, "-sn", "uac", f"127.0.0.1:{edge.tls_port or edge.address[1]}", "-t", transport, *keys,
                "-m", "20", "-r", "20", "-d", "50", "-timeout", "30s", "-timeout_error",
            )  # fmt: skip
            output, _ = await asyncio.wait_for(client.communicate(), 45)
            assert client.returncode == 0, output.decode(errors="replace")[-2000:]
            assert edge.counters.calls_answered == edge.counters.calls_ended == 20
            assert edge.loads == {"sipp": 0} and edge.counters.errors == 0
        finally:
            server.kill()
            await server.communicate()
            await edge.stop()

    asyncio.run(run())
