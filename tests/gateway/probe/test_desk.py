"""Who is a probe, when there is room for one, and what a probe's process came to."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest

pytest.importorskip("pesq", reason="pip install 'microturn[probe]'")

from gateway.caller.calls import CallPlan
from gateway.caller.report import CallReport
from gateway.probe import desk as probe_desk
from gateway.probe.command import ADDRESS, run_probe
from gateway.probe.desk import ProbeCounters, ProbeDesk
from gateway.probe.place import REASONS, clip, judge, plan, probe


def made(tmp_path: Path, room: list[int], places: int = 40) -> ProbeDesk:
    return ProbeDesk("echo", ("PCMU",), 60.0, places, tmp_path, lambda: room[0])


def test_every_reason_has_its_counter() -> None:
    counters = ProbeCounters()
    for reason in REASONS:
        counters.fail(reason)
    told = {reason.replace("-", "_") for reason in REASONS}
    assert {name for name in ProbeCounters.__slots__ if getattr(counters, name) == 1} == told


def test_its_name_is_new_at_each_start_and_only_for_who_may_read_run_dir(tmp_path: Path) -> None:
    first, second = made(tmp_path, [40]), made(tmp_path, [40])
    first.open("127.0.0.1", 5060)
    second.open("::1", 5062)
    path = tmp_path / ADDRESS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    name = path.read_text().removeprefix("sip:").partition("@")[0]
    assert path.read_text() == f"sip:{name}@[::1]:5062\n"
    assert second.knows(name) and not first.knows(name)
    assert not second.knows("probe") and not second.knows("")
    second.close()
    assert not path.exists()


def test_a_probe_is_let_in_only_where_it_is_in_nobodys_way(tmp_path: Path) -> None:
    room = [5]
    desk = made(tmp_path, room)
    assert desk.admit()
    room[0] = 4  # a tenth of 40
    assert not desk.admit()
    assert desk.counters.admitted == 1
    assert made(tmp_path, [2], places=4).admit() and not made(tmp_path, [1], places=4).admit()


def test_without_room_none_is_placed_and_that_is_counted(tmp_path: Path) -> None:
    desk = made(tmp_path, [4])
    assert asyncio.run(desk.once("PCMU")) is None
    assert (desk.counters.put_off, desk.counters.scored) == (1, 0)


def test_one_that_needs_its_place_no_more_hangs_up(tmp_path: Path) -> None:
    """Nobody answers the probe; meanwhile the places run out."""
    room = [40]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        desk = made(tmp_path, room)
        desk.open(*silent.getsockname())

        async def story() -> None:
            placing = asyncio.create_task(desk.once("PCMU"))
            await asyncio.to_thread(silent.recv, 4_096)
            room[0] = 2
            assert await placing is None

        asyncio.run(story())
    assert (desk.counters.put_off, desk.counters.unreachable, desk.counters.broken) == (1, 0, 0)


def test_a_process_that_ends_without_a_word_or_takes_too_long_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = made(tmp_path, [40])  # no address to call
    outcome = asyncio.run(desk.once("PCMU"))
    assert outcome is not None and (outcome.reason, desk.counters.broken) == ("broken", 1)
    monkeypatch.setattr(probe_desk, "LIMIT_S", 0.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        desk.open(*silent.getsockname())
        outcome = asyncio.run(desk.once("PCMU"))
    assert outcome is not None and (outcome.reason, desk.counters.timeout) == ("timeout", 1)
    assert desk.gauges() == {}


def test_where_nobody_is_the_outcome_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        outcome = asyncio.run(probe(f"sip:127.0.0.1:{port};transport=tcp", "PCMU"))
    assert (outcome.reason, outcome.mos) == ("unreachable", None)
    assert run_probe("", tmp_path, "PCMU", as_json=False) == 2
    assert "no gateway with an engine for probes has its run_dir at" in capsys.readouterr().err
    assert run_probe("sip:127.0.0.1", tmp_path, "GSM", as_json=False) == 2


def report(**different: object) -> CallReport:
    usual: dict[str, object] = dict(
        uri="sip:x@127.0.0.1", codec="PCMU", status=200, reason="OK", retry_after_s=None, ended_by="us",
        setup_ms=12.0, sent_packets=500, received_packets=480, lost_packets=20, duplicate_packets=0,
        reordered_packets=0, other_datagrams=0, send_errors=0, jitter_ms=1.0, longest_silence_ms=20.0,
        delay_ms=None, gap_ms=0.0, active_ms=0.0, concealed_ms=0.0, mos=None, windows=None,
        recording=clip(8_000), rate_hz=8_000,
    )  # fmt: skip
    return CallReport(**(usual | different))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"setup_ms": None, "status": 503, "ended_by": "refused"}, "refused"),
        ({"setup_ms": None, "status": 408, "ended_by": "timeout"}, "unreachable"),
        ({"received_packets": 0, "lost_packets": 0}, "no-media"),
        ({}, "unheard"),
    ],
)
def test_why_a_call_has_no_score(different: dict[str, object], reason: str) -> None:
    outcome = judge(report(**different), clip(8_000))
    assert (outcome.reason, outcome.mos) == (reason, None)


def test_the_call_is_as_long_as_the_clip_and_what_comes_back() -> None:
    found: CallPlan = plan("sip:127.0.0.1", "G722")
    assert found.length_s == pytest.approx(10.33, abs=0.01) and found.play_rate_hz == 16_000
