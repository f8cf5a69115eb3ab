"""Whole calls: to a peer in the same loop whose echo is known, and to programs that are not ours."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.caller.calls import Caller, CallPlan, place_call
from gateway.caller.command import run_call, sounding_s, summary
from gateway.caller.messages import Message, parse_message
from gateway.caller.report import CallReport, report_call
from gateway.caller.sdp import describe, parse_audio
from gateway.caller.signals import numbered_tones
from loadtests.ports import free_port


class EchoPeer(asyncio.DatagramProtocol):
    """Answers every call and sends each RTP packet back `delay_s` after it came; or refuses."""

    def __init__(self, *, delay_s: float = 0.0, refuse: tuple[int, str, str] | None = None) -> None:
        self.delay_s = delay_s
        self.refuse = refuse
        self.methods: list[str] = []
        self.hang_up_after_ack = False

    async def __aenter__(self) -> EchoPeer:
        loop = asyncio.get_running_loop()
        self.sip, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.rtp, _ = await loop.create_datagram_endpoint(lambda: _Echo(self), local_addr=("127.0.0.1", 0))
        self.port = self.sip.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sip.close()
        self.rtp.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = parse_message(data)
        assert message is not None
        self.methods.append(message.method or str(message.status))
        if message.method == "ACK" and self.hang_up_after_ack:
            headers = (
                ("via", f"SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bKbye"),
                ("from", message.header("to")),
                ("to", message.header("from")),
                ("call-id", message.call_id),
                ("cseq", "1 BYE"),
            )
            self.sip.sendto(Message("BYE", "sip:caller@127.0.0.1", headers=headers).serialise(), addr)
        if not message.method or message.method == "ACK":
            return
        status, name, value = self.refuse or (200, "contact", f"<sip:echo@127.0.0.1:{self.port}>")
        copied = [h for h in message.headers if h[0] in ("via", "from", "call-id", "cseq")]
        to = message.header("to") + ("" if message.tag("to") else ";tag=peer")
        body = b""
        if message.method == "INVITE" and status == 200:
            offer = parse_audio(message.body)
            assert offer is not None
            number, codec = next(iter(offer.codecs.items()))
            body = describe("127.0.0.1", self.rtp.get_extra_info("sockname")[1], codec, number)
        headers = (*copied, ("to", to), (name, value))
        response = Message(status=status, reason="R", headers=headers, body=body)
        self.sip.sendto(response.serialise(), addr)


class _Echo(asyncio.DatagramProtocol):
    def __init__(self, peer: EchoPeer) -> None:
        self.peer = peer

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        later = asyncio.get_running_loop().call_later
        later(self.peer.delay_s, self._send, data, addr)

    def _send(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.peer.rtp.is_closing():
            self.peer.rtp.sendto(data, addr)


def plan(port: int, seconds: float = 2.0, codec: str = "PCMU", **more: object) -> CallPlan:
    return CallPlan(
        f"sip:echo@127.0.0.1:{port}", codec, numbered_tones(seconds, 16000, 1), 16000, seconds, **more
    )


@pytest.mark.parametrize("codec", ["PCMU", "PCMA", "G722"])
def test_a_call_is_echoed(codec: str) -> None:
    if codec == "G722":
        pytest.importorskip("av", reason="G.722 needs PyAV")

    async def story() -> None:
        async with EchoPeer(delay_s=0.25) as peer:
            report = await place_call(plan(peer.port, 2.0, codec))
        assert peer.methods == ["INVITE", "ACK", "BYE"]
        assert (report.status, report.ended_by, report.answered) == (200, "us", True)
        assert report.sent_packets == 100
        assert report.lost_packets == 0
        assert report.delay_ms is not None and report.beyond_chunk_ms is not None
        # The peer shares our loop, so it can only be late, never early.
        assert 249 <= report.delay_ms.p50 < 400
        assert report.beyond_chunk_ms.p50 == report.delay_ms.p50 - 200
        assert report.gap_ms == 0
        assert report.mos is not None and report.mos > 4
        assert report.recording is not None and report.recording.size >= report.rate_hz

    asyncio.run(story())


def test_many_calls_at_once_each_hear_their_own() -> None:
    async def story() -> None:
        async with EchoPeer() as peer, Caller() as caller:
            plans = [
                CallPlan(
                    f"sip:echo@127.0.0.1:{peer.port}", "PCMU", numbered_tones(2, 8000, n), 8000, 2.0,
                    record=False,
                )
                for n in range(12)
            ]  # fmt: skip
            logs = await asyncio.gather(*map(caller.place, plans))
        for log in logs:
            report = report_call(log)
            assert report.answered
            assert report.media_came_back
            assert report.gap_ms == 0
            assert report.recording is None
            # An absolute schedule: the last packet leaves when its number says, however late others were.
            took_ns = log.sent_ns[-1] - log.sent_ns[0]
            assert abs(took_ns - (len(log.sent_ns) - 1) * 20_000_000) < 200_000_000

    asyncio.run(story())


@pytest.mark.parametrize("status", [404, 486, 503])
def test_a_refusal_is_a_report(status: int) -> None:
    async def story() -> None:
        async with EchoPeer(refuse=(status, "retry-after", "9")) as peer:
            report = await place_call(plan(peer.port))
        assert peer.methods == ["INVITE", "ACK"]
        assert (report.status, report.retry_after_s, report.ended_by) == (status, 9, "refused")
        assert not report.answered
        assert report.delay_ms is None and report.mos is None and report.recording is None

    asyncio.run(story())


def test_a_redirection_is_followed() -> None:
    async def story() -> None:
        async with EchoPeer() as second:
            target = ("contact", f"<sip:echo@127.0.0.1:{second.port}>")
            async with EchoPeer(refuse=(302, *target)) as first:
                report = await place_call(plan(first.port))
        assert first.methods == ["INVITE", "ACK"]
        assert report.status == 200
        assert report.media_came_back

    asyncio.run(story())


def test_redirections_in_a_circle_end() -> None:
    async def story() -> None:
        async with EchoPeer() as peer:
            peer.refuse = (302, "contact", f"<sip:echo@127.0.0.1:{peer.port}>")
            report = await place_call(plan(peer.port))
        assert peer.methods.count("INVITE") == 3
        assert report.status == 302

    asyncio.run(story())


def test_the_peer_hangs_up_first() -> None:
    async def story() -> None:
        async with EchoPeer() as peer:
            peer.hang_up_after_ack = True
            report = await place_call(plan(peer.port, seconds=60.0))
        assert (report.status, report.ended_by) == (200, "peer")
        assert report.sent_packets < 3000

    asyncio.run(story())


def test_a_call_that_is_wound_up_hears_what_it_said_and_ends() -> None:
    async def story() -> CallReport:
        async with EchoPeer(delay_s=0.25) as peer, Caller() as caller:
            call = asyncio.create_task(caller.place(plan(peer.port, seconds=60.0, tail_s=0.5)))
            await asyncio.wait([call], timeout=1.0)
            caller.wind_up()
            log = await call
        assert peer.methods == ["INVITE", "ACK", "BYE"]
        return report_call(log)

    report = asyncio.run(story())
    assert (report.status, report.ended_by) == (200, "us")
    assert 25 < report.sent_packets < 200
    assert report.media_came_back and report.gap_ms == 0
    assert 0 < report.active_ms < report.sent_packets * 20 - 400, "the tail is silence"


def test_a_call_may_be_cancelled_by_whoever_placed_it() -> None:

    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            async with Caller() as caller:
                call = asyncio.create_task(caller.place(plan(deaf.getsockname()[1])))
                await asyncio.to_thread(deaf.recv, 4096)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

    asyncio.run(story())


def test_plans_that_cannot_be_called() -> None:
    pcm = np.zeros(10, dtype=np.int16)
    wrong = [("nobody", "PCMU", 1.0), ("sip:x@h", "iLBC", 1.0), ("sip:x@h", "PCMU", 0.0)]
    for uri, codec, seconds in wrong:
        with pytest.raises(ValueError):
            CallPlan(uri, codec, pcm, 8000, seconds)


def test_the_timeline_has_silence_at_both_ends_and_whole_packets() -> None:
    pcm = np.full(80_000, 1000, dtype=np.int16)
    timeline = CallPlan("sip:x@h", "PCMU", pcm, 8000, seconds=10.0).timeline()
    assert timeline.size == 80_000
    assert not timeline[:1600].any() and timeline[1600:72_000].all() and not timeline[72_000:].any()
    assert CallPlan("sip:x@h", "PCMU", pcm, 8000).timeline().size == 89_600  # 0.2 + 10 + 1 s
    assert CallPlan("sip:x@h", "PCMU", pcm, 8000, seconds=0.011).timeline().size == 160


@pytest.fixture
def sipp(tmp_path: Path) -> Iterator[int]:
    """SIPp answering calls and echoing their RTP; its SIP port."""
    if shutil.which("sipp") is None:
        pytest.skip("sipp is not installed")
    port, media_port = free_port(), free_port(8) + 1 & ~1
    command = ["sipp", "-sn", "uas", "-rtp_echo", "-i", "127.0.0.1", "-mi", "127.0.0.1", "-nostdin"]
    process = subprocess.Popen(
        [*command, "-p", str(port), "-mp", str(media_port)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_bound(port)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_until_bound(port: int) -> None:
    """Until /proc/net/udp shows the port: a datagram sent earlier would be lost."""
    deadline = time.monotonic() + 10
    wanted = f":{port:04X} "
    while time.monotonic() < deadline:
        if wanted in Path("/proc/net/udp").read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on UDP {port}")


@pytest.mark.sip
def test_sipp_echoes_ten_calls_at_once(sipp: int) -> None:
    async def story() -> None:
        async with Caller() as caller:
            calls = [
                CallPlan(f"sip:x@127.0.0.1:{sipp}", "PCMU", numbered_tones(3, 8000, n), 8000, 3.0, dtmf="1")
                for n in range(10)
            ]
            logs = await asyncio.gather(*map(caller.place, calls))
        for log in logs:
            report = report_call(log)
            assert (report.status, report.ended_by, report.lost_packets) == (200, "us", 0)
            assert report.delay_ms is not None
            assert report.delay_ms.p50 < 20
            assert report.gap_ms == 0
            assert report.other_datagrams == 7  # the digit, echoed as it is

    asyncio.run(story())


@pytest.mark.sip
def test_the_command_against_sipp(sipp: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    play, record = tmp_path / "play.wav", tmp_path / "record.wav"
    soundfile.write(play, numbered_tones(1, 16000, 5), 16000)
    assert run_call(f"sip:x@127.0.0.1:{sipp}", play, record, 3.0, 1.0, "PCMU", True) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"setup_ms", "delay_ms", "lost_packets", "concealed_ms", "mos", "status"} <= said.keys()
    assert said["delay_ms"].keys() == {"p50", "p95", "p99", "max", "growth"}
    assert said["beyond_chunk_ms"]["p50"] == pytest.approx(said["delay_ms"]["p50"] - 200)
    heard, rate = soundfile.read(record, dtype="int16")
    assert rate == 8000
    assert np.abs(heard).max() > 3000


def test_the_command_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play = tmp_path / "play.wav"
    assert run_call("sip:x@127.0.0.1", play, None, None, 1.0, "PCMU", False) == 2
    soundfile.write(play, np.zeros(800, dtype=np.int16), 8000)
    assert run_call("sip:x@127.0.0.1", play, None, None, 1.0, "OPUS", True) == 2
    assert "choose PCMU, PCMA or G722" in capsys.readouterr().err


def test_somebody_who_says_something_else_was_heard_too() -> None:
    async def story() -> CallReport:
        async with EchoPeer() as peer:
            return await place_call(plan(peer.port))

    report = asyncio.run(story())
    tone = (4000 * np.sin(np.arange(8000) * 0.5)).astype(np.int16)
    said = np.concatenate([np.zeros(8000, np.int16), tone])
    other = replace(report, recording=said, rate_hz=8000, delay_ms=None, windows=None)
    assert sounding_s(other) == 1.0
    assert "somebody else spoke for 1.0 s" in summary(other)
    assert sounding_s(replace(report, recording=np.zeros(8000, np.int16))) == 0.0
    assert sounding_s(replace(report, recording=None)) == 0.0
