"""`python -m loadtests webrtc`: what it leans on, what it sends, what it makes of what came back, and small runs
against aiortc as it comes."""

from __future__ import annotations

import ast
import asyncio
import csv
import importlib.metadata
import json
import urllib.request
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aioice.ice
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.codecs.vpx import VpxPayloadDescriptor

from loadtests import aiortc_taps, report, webrtc, webrtc_figures
from loadtests.__main__ import main
from loadtests.processes import Usage
from loadtests.webrtc_call import CallLog
from loadtests.webrtc_generator import Schedule
from loadtests.webrtc_loop import DatagramPort, is_rtp
from loadtests.webrtc_media import (
    ANALYSIS_HZ,
    VIDEO_BITRATE,
    Clip,
    Samples,
    Voice,
    is_key_frame,
    make_clip,
    make_voice,
)
from loadtests.webrtc_streams import (
    RESEND_PACKETS,
    ArrivalStatistics,
    AudioStream,
    Losses,
    RtpSlot,
    VideoStream,
)
from loadtests.webrtc_systems import started_baseline, system_at
from media.rtp import RtpPacket, parse_packet

SLOT = RtpSlot(
    payload_type=96, ssrc=0x01020304, mid="0", mid_extension=1, sequence=65_534, timestamp=2**32 - 960
)
MS = 1_000_000


class Line:
    """A path that remembers."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []

    def send(self, packet: bytes) -> bool:
        parsed = parse_packet(packet)
        assert isinstance(parsed, RtpPacket)
        self.packets.append(parsed)
        return True


@pytest.fixture(scope="module")
def voice() -> Voice:
    return make_voice([], 4.0, 20, seed=1, number=0, loss=0.0)


# -- what it leans on


def test_the_private_names_of_aiortc_are_there() -> None:
    async def look() -> None:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = connection.addTransceiver("audio")
        dtls = transceiver.sender.transport
        owners = {
            "aioice.ice": aioice.ice,
            "aioice.ice.Connection": dtls.transport._connection,
            "aiortc.RTCIceTransport": dtls.transport,
            "aiortc.RTCDtlsTransport": dtls,
            "aiortc.RTCRtpSender": transceiver.sender,
            "aiortc.RTCRtpReceiver": transceiver.receiver,
        }
        missing = []
        for name in aiortc_taps.PRIVATE_NAMES:
            owner, _, attribute = name.rpartition(".")
            if attribute.startswith("__"):
                attribute = f"_{owner.rpartition('.')[2]}{attribute}"
            if not hasattr(owners[owner], attribute):
                missing.append(name)
        await connection.close()
        assert not missing, f"aiortc has changed; look at loadtests/aiortc_taps.py: {missing}"

    assert importlib.metadata.version("aiortc") == aiortc_taps.AIORTC
    asyncio.run(look())


def test_private_names_are_used_in_one_file() -> None:
    found = []
    for path in sorted(Path(webrtc.__file__).parent.glob("*.py")):
        if path.name.startswith(("webrtc", "aiortc")) and path.name != "aiortc_taps.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Attribute)
                    and node.attr.startswith("_")
                    and not node.attr.endswith("__")
                ):
                    owner = node.value.id if isinstance(node.value, ast.Name) else "?"
                    if owner != "self":
                        found.append(f"{path.name}:{node.lineno} {owner}.{node.attr}")
    assert not found, f"move it to loadtests/aiortc_taps.py and list it there: {found}"


def test_rtp_is_told_from_stun_dtls_and_rtcp() -> None:
    body = bytes(20)
    assert is_rtp(b"\x80\x60" + body) and is_rtp(b"\x90\xe0" + body)  # with and without the marker
    for first, second in [(0, 1), (22, 254), (0x80, 200), (0x81, 201), (0x81, 206), (0x40, 0)]:
        assert not is_rtp(bytes([first, second]) + body)
    assert not is_rtp(b"\x80\x60")


# -- what it sends


def test_a_call_goes_round_its_voice_from_its_own_place(voice: Voice) -> None:
    line = Line()
    stream = AudioStream(line, SLOT, voice, 198, Losses(0.0, "x"))
    stream.due_ns = 7
    for _ in range(4):
        stream.send()
    assert [packet.payload for packet in line.packets] == [*voice.packets[198:200], *voice.packets[:2]]
    assert [packet.sequence for packet in line.packets] == [65_534, 65_535, 0, 1]
    assert [packet.timestamp for packet in line.packets] == [2**32 - 960, 0, 960, 1920]
    assert [packet.marker for packet in line.packets] == [True, False, False, False]
    assert {(p.ssrc, p.payload_type, p.extension) for p in line.packets} == {(SLOT.ssrc, 96, b"\x100\0\0")}
    assert stream.due_ns == 7 + 4 * 20 * MS  # counted from the first, so nothing drifts
    assert list(stream.left) == [1, 1, 1, 1] and len(stream.sent_ns) == 4


def test_losses_are_seeded_and_leave_a_hole_in_the_numbers(voice: Voice) -> None:
    def sent(seed: str) -> tuple[list[int], list[int]]:
        line = Line()
        stream = AudioStream(line, SLOT, voice, 0, Losses(0.02, seed))
        for _ in range(10_000):
            stream.send()
        return [packet.sequence for packet in line.packets], list(stream.left)

    numbers, left = sent("1 0 a")
    assert (numbers, left) == sent("1 0 a") and left != sent("1 1 a")[1]
    assert 150 < left.count(0) < 250
    assert numbers == [(65_534 + index) & 0xFFFF for index, flag in enumerate(left) if flag]


def test_without_the_extension_packets_are_plain(voice: Voice) -> None:
    line = Line()
    slot = RtpSlot(111, 5, "0", mid_extension=0, sequence=1, timestamp=2)
    AudioStream(line, slot, voice, 0, Losses(0.0, "x")).send()
    assert line.packets[0].extension is None and line.packets[0].payload == voice.packets[0]


def test_a_frame_becomes_packets_and_a_key_frame_comes_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = Clip(((b"\x10key", b"more"), (b"\x11delta",), (b"\x11last",)), 0)
    line, now_ns = Line(), 10**12
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns)
    stream = VideoStream(line, SLOT, clip, Losses(0.0, "x"))
    stream.send()
    stream.send()
    stream.restart()
    stream.send()  # the key frame again
    stream.restart()
    stream.send()  # too soon for another
    now_ns += 300 * MS
    stream.send()
    pieces = [VpxPayloadDescriptor.parse(packet.payload) for packet in line.packets]
    expected = [b"\x10key", b"more", b"\x11delta", b"\x10key", b"more", b"\x11delta", b"\x10key", b"more"]
    assert [rest for _, rest in pieces] == expected
    assert [d.picture_id for d, _ in pieces] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [d.partition_start for d, _ in pieces] == [1, 0, 1, 1, 0, 1, 1, 0]
    assert [packet.marker for packet in line.packets] == [False, True, True, False, True, True, False, True]
    assert (line.packets[2].timestamp - line.packets[0].timestamp) % 2**32 == 6000
    assert (stream.restarts, stream.asked) == (2, 2)


def test_a_lost_packet_is_sent_again_as_it_was() -> None:
    line = Line()
    stream = VideoStream(line, SLOT, Clip(((b"\x10key",), (b"\x11delta",)), 0), Losses(0.0, "x"))
    for _ in range(RESEND_PACKETS + 1):
        stream.send()
    stream.resend(65_535)
    assert line.packets[-1] == line.packets[1] and stream.resent == 1
    stream.resend(65_534)  # forgotten: memory has a bound
    assert stream.resent == 1


def test_a_real_clip_has_one_key_frame() -> None:
    if not webrtc.CLIP.exists():
        pytest.skip(f"{webrtc.CLIP} is absent")
    clip = make_clip(webrtc.CLIP)
    assert len(clip.frames) == 150  # 10 s at 15 frames a second
    assert [is_key_frame(frame[0]) for frame in clip.frames] == [True] + [False] * 149
    assert VIDEO_BITRATE * 0.9 < clip.bitrate < VIDEO_BITRATE * 1.5
    assert max(len(piece) for frame in clip.frames for piece in frame) <= 1100


def test_receiver_reports_count_what_is_missing() -> None:
    port = SimpleNamespace(datagrams=[], arrivals_ns=array("q"))
    statistics = ArrivalStatistics(cast(DatagramPort, port), 48_000)
    assert (statistics.fraction_lost, statistics.packets_lost) == (0, 0)

    def arrive(numbers: list[int]) -> None:
        for number in numbers:
            port.datagrams.append(RtpPacket(96, number & 0xFFFF, number * 960, 1, b"").serialise())
            port.arrivals_ns.append(number * 20 * MS)

    arrive([65_534, 65_535, 65_536, 65_538])  # one of five is missing
    assert statistics.fraction_lost == 256 // 5
    assert (statistics.packets_lost, statistics.max_seq, statistics.jitter) == (1, 65_538, 0)
    arrive([65_539, 65_540])
    assert (statistics.fraction_lost, statistics.packets_lost) == (0, 1)
    arrive([65_539, 65_540, 65_542])  # two come twice, which makes up for nothing
    assert (statistics.fraction_lost, statistics.packets_lost) == (256 // 2, 2)
    arrive([65_537, 65_541])
    assert (statistics.fraction_lost, statistics.packets_lost) == (0, 0)


# -- what it makes of what came back


def echo(voice: Voice, packets: int, delay_ms: int, missing: frozenset[int] = frozenset()) -> CallLog:
    """A call whose packets came back as they were, so much later, some not at all."""
    log = CallLog(index=0, voice_number=0, offset=50, ptime_ms=20, status=201, ended_by="us")
    log.posted_ns, log.answered_ns, log.connected_ns = 10**9, 10**9 + 5 * MS, 10**9 + 30 * MS
    start_ns = 2 * 10**9
    for index in range(packets):
        sent_ns = start_ns + index * 20 * MS
        log.sent_ns.append(sent_ns)
        log.left.append(1)
        if index not in missing:
            payload = voice.packets[(50 + index) % len(voice.packets)]
            log.datagrams.append(RtpPacket(96, 65_500 + index & 0xFFFF, index * 960, 9, payload).serialise())
            log.arrivals_ns.append(sent_ns + delay_ms * MS)
    log.first_rtp_ns, log.listened_until_ns = log.arrivals_ns[0], log.sent_ns[-1] + 1500 * MS
    return log


def test_an_echo_is_found_at_its_delay_and_without_a_gap(voice: Voice) -> None:
    found = webrtc_figures.report_call(echo(voice, 300, 250), voice.pcm)
    assert found.delay_ms is not None and found.windows is not None
    # One decoder began in the middle of the ring, so its first packets are not quite the others' sound.
    assert found.beyond_chunk_ms is not None and found.beyond_chunk_ms.p50 == pytest.approx(50, abs=0.2)
    assert found.delay_ms.max == pytest.approx(250, abs=1) and found.delay_ms.growth == pytest.approx(
        0, abs=0.2
    )
    assert found.windows.delay_ms.size > 25 and found.windows.score.min() > 0.95
    assert (found.gap_ms, found.lost_packets, found.concealed_ms, found.setup_ms) == (0, 0, 0, 5)


def test_what_did_not_come_back_is_a_gap(voice: Voice) -> None:
    missing = frozenset(range(100, 110))
    found = webrtc_figures.report_call(echo(voice, 300, 250, missing), voice.pcm)
    assert (found.lost_packets, found.concealed_ms) == (10, 200)
    assert 160 <= found.gap_ms <= 240


def test_what_never_left_is_no_gap(voice: Voice) -> None:
    missing = frozenset(range(100, 110))
    log = echo(voice, 300, 250, missing)
    for index in missing:
        log.left[index] = 0
    assert webrtc_figures.report_call(log, voice.pcm).gap_ms <= 40


def test_received_packets_are_laid_by_their_time_stamps(voice: Voice) -> None:
    log = echo(voice, 100, 100)
    straight = webrtc_figures.received_audio(log.datagrams, log.arrivals_ns)
    datagrams, arrivals_ns = list(log.datagrams), log.arrivals_ns.tolist()
    datagrams[10], datagrams[11] = datagrams[11], datagrams[10]
    datagrams.insert(20, datagrams[19])
    datagrams[30:30] = [b"junk", RtpPacket(96, 1, 1, 77, b"other").serialise()]
    datagrams.append(RtpPacket(96, 65_600 & 0xFFFF, 2**31, 9, voice.packets[0]).serialise())  # a leap
    for at in (20, 30, 30, 100):
        arrivals_ns.insert(at, arrivals_ns[at - 1])
    bent = webrtc_figures.received_audio(datagrams, arrivals_ns)
    np.testing.assert_array_equal(bent.pcm, straight.pcm)
    assert (bent.duplicates, bent.reordered, bent.other, bent.lost) == (1, 1, 3, 0)
    assert straight.pcm.size == 100 * 20 * ANALYSIS_HZ // 1000
    assert set(straight.size.tolist()) == {160}


def test_calls_are_answered_refused_or_failed(voice: Voice) -> None:
    answered = echo(voice, 100, 260)
    refused = CallLog(1, 0, 0, 20, status=503, reason="full", retry_after_s=2, ended_by="refused")
    failed = CallLog(2, 0, 0, 20, status=201, answered_ns=5, posted_ns=1, ended_by="failed")
    logs = [answered, refused, failed]
    costs = report.Costs(10.0, {"webrtc-worker": Usage(0.1, 1, 1)}, grown_mb=0.5)
    run = webrtc_figures.SystemRun(
        "x", logs, [voice.pcm], costs, {"total": 9, "missed": 0, "late": 0}, {"late_packets": 3}, 0.02, 1.5
    )
    result = webrtc_figures.figures(run, webrtc_figures.report_calls(logs, [voice.pcm]))
    assert (result["answered"], result["refused"], result["failed"]) == (1, 1, 1)
    assert result["refused_with_retry_after"] == 1 and result["statuses"] == {"201": 2, "503": 1}
    assert result["cpu_percent_per_call"] == {"webrtc-worker": 1.0, "total": 1.0}
    assert result["rss_mb_per_call"] == 0.5
    assert result["delay_ms"]["p50"] == pytest.approx(60, abs=0.2)
    assert result["setup_ms"]["p50"] == 1260 and result["connected_ms"]["p50"] == 30
    assert result["generator"] == {"cpu_percent_per_call": 0.2, "late_ms": 1.5}
    assert result["counted"] == {"late_packets": 3}
    assert result["packets_per_second"] == 50.0 and result["heard_percent"] == 100.0
    assert "webrtc-worker" in webrtc_figures.side_by_side({"a": result, "b": {"answered": 1}})


def test_counters_of_trouble_and_what_they_grew_by() -> None:
    text = (
        "# HELP microturn_late_packets_total x\nmicroturn_turns_total 5\nmicroturn_slots 3\n"
        'microturn_late_packets_total{worker="web-0"} 2\nmicroturn_late_packets_total{worker="web-1"} 3.0\n'
        "microturn_concealed_samples_total 0\n"
    )
    before = webrtc_figures.parse_counters(text)
    assert before == {"late_packets": 5, "concealed_samples": 0}
    after = {"late_packets": 5, "concealed_samples": 160, "lost_packets": 1}
    assert webrtc_figures.counted_between(before, after) == {"concealed_samples": 160, "lost_packets": 1}


def test_the_steady_state_begins_when_the_last_call_is_up() -> None:
    schedule = Schedule(calls=40, ramp=5.0, settle_s=2.0, seconds=60.0)
    assert (schedule.call_s(0), schedule.call_s(39)) == (0.0, 7.8)
    assert (schedule.steady_s, schedule.end_s) == (9.8, 69.8)


# -- whom it may call, and small runs


@pytest.mark.parametrize("target", ["http://192.0.2.1:80", "https://example.org/whip", "127.0.0.1:80"])
def test_only_this_machine_is_called(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["webrtc", "--target", target]) == 2
    assert "127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--calls", "0"], ["--loss", "2"], ["--play", "/nowhere"], ["--set", "slots"]]
)
def test_wrong_arguments_are_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["webrtc", *arguments]) == 2
    assert "loadtests webrtc:" in capsys.readouterr().err


def test_where_whip_is() -> None:
    assert system_at("http://127.0.0.1:80", None).whip_url == "http://127.0.0.1:80/whip"
    assert system_at("http://127.0.0.1:80/a/b", None).whip_url == "http://127.0.0.1:80/a/b"
    assert system_at("http://127.0.0.1:80/a/b", None).metrics_url == "http://127.0.0.1:80/metrics"


def small_run(tmp_path: Path, *more: str) -> tuple[int, str]:
    """(exit status, metrics of the server) of two calls for three seconds against aiortc as it comes."""
    with started_baseline() as system:
        target = ["--target", system.whip_url, "--pid", str(system.pid), "--results", str(tmp_path)]
        status = main(["webrtc", "--calls", "2", "--seconds", "3", "--tones", *target, *more])
        with urllib.request.urlopen(system.metrics_url) as answer:
            return status, answer.read().decode()


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads(capsys.readouterr().out.splitlines()[-1]))


@pytest.mark.long
@pytest.mark.processes
def test_a_small_run_against_aiortc_as_it_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = small_run(tmp_path)
    result = last_line(capsys)
    assert status == 0
    assert (result["answered"], result["refused"], result["failed"], result["without_media"]) == (2, 0, 0, 0)
    assert result["statuses"] == {"201": 2}
    assert result["cpu_percent_per_call"].keys() == {"aiortc-baseline", "total"}
    assert result["packets_per_second"] == pytest.approx(50, abs=2)
    assert result["heard_percent"] > 80
    assert 60 < result["delay_ms"]["p50"] < 1000  # its jitter buffer holds 80 ms
    assert 0 < result["connected_ms"]["p50"] < result["setup_ms"]["p50"]
    assert result["turns"]["total"] > 20
    assert (result["lost_packets"], result["dropped_packets"], result["send_errors"]) == (0, 0, 0)
    with (tmp_path / "webrtc.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["answered"] == "2" and float(row["delay_ms.p50"]) == result["delay_ms"]["p50"]


@pytest.mark.processes
@pytest.mark.long
def test_a_small_run_through_a_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--calls", "2", "--seconds", "3", "--tones", "--results", str(tmp_path)]
    assert main(["webrtc", *arguments]) == 0
    result = last_line(capsys)
    assert (result["system"], result["answered"], result["failed"]) == ("microturn", 2, 0)
    assert {"webrtc-worker", "gateway", "model-server", "total"} <= result["cpu_percent_per_call"].keys()
    assert result["heard_percent"] > 80 and result["turns"]["total"] > 20
    assert 0 < result["delay_ms"]["p50"] < 1000
    assert result["messages"] >= 2  # hello, to each


@pytest.mark.long
@pytest.mark.processes
def test_a_small_run_with_cameras_loss_and_the_baseline_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not webrtc.CLIP.exists():
        pytest.skip(f"{webrtc.CLIP} is absent")
    status, metrics = small_run(tmp_path, "--video", "--loss", "0.05", "--baseline", "--generators", "2")
    result = last_line(capsys)
    assert status == 0
    for column in (result, result["baseline"]):
        assert column["answered"] == 2
        assert column["dropped_packets"] > 0 and column["video"]["dropped_packets"] > 0
        assert column["video"]["frames"] > 60
        assert column["video"]["resent_packets"] > 0  # its NACKs reached us
    decoded = next(line for line in metrics.splitlines() if line.startswith("aiortc_video_frames_total"))
    assert int(decoded.split()[1]) > 20  # so our VP8 is VP8
    with (tmp_path / "webrtc.csv").open() as file:
        assert [row["system"] for row in csv.DictReader(file)] == ["target", "aiortc"]


@pytest.mark.processes
@pytest.mark.long
def test_a_target_that_takes_no_calls_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with started_baseline() as system:
        wrong = system.whip_url.replace("/whip", "/nothing")
        arguments = ["--calls", "1", "--seconds", "0.5", "--tones", "--results", str(tmp_path)]
        assert main(["webrtc", *arguments, "--target", wrong]) == 1
    said = capsys.readouterr()
    assert "404" in said.err
    result = json.loads(said.out.splitlines()[-1])
    assert (result["answered"], result["refused"], result["statuses"]) == (0, 1, {"404": 1})


def test_a_voice_is_found_in_itself_only(voice: Voice) -> None:
    other = make_voice([], 4.0, 20, seed=1, number=1, loss=0.0)
    found = webrtc_figures.report_call(echo(other, 200, 250), voice.pcm)
    assert found.windows is not None and found.windows.delay_ms.size == 0
    assert pcm_rms(voice.pcm) > 1000


def pcm_rms(pcm: Samples) -> float:
    return float(np.sqrt(np.mean(pcm.astype(np.float64) ** 2)))
