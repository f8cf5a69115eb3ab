"""The fault matrix: judges that can say no, of calls that never were; two of its cases, short, with real ones."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.caller.calls import CallLog, CallPlan
from gateway.caller.codec import find_codec
from gateway.caller.signals import numbered_tones
from gateway.state.records import Cdr
from loadtests.faults import clock, command, disk, matrix, network, slots, strangers
from loadtests.faults.heard import Promise, judge_heard
from loadtests.faults.outcome import Outcome, Plan
from loadtests.slow_line import SlowLine
from media.slots import SlotTable

S, MS = 10**9, 10**6
BEGIN_NS = 1_000 * S
SECONDS, LAG_FRAMES = 12.0, 12  # what comes back is 240 ms old
FAULT = (BEGIN_NS + 4 * S, BEGIN_NS + 6 * S)
SOUND = (
    "ms of gaps",
    "gaps of",
    "without a packet",
    "comfort sound",
    "speech was missing",
    "delay afterwards",
)
"""What is said of sound, which a busy machine spoils as well: for the load test on a quiet one."""


def call(
    missing: Sequence[tuple[float, float]] = (), *, later: float = 0.0, by: str = "us", loud: bool = False
) -> CallLog:
    """An echoed call of 12 s. Of what is said from second to second nothing comes back; behind second 6 all comes
    so many seconds `later`; where it is missing a loud noise may be heard."""
    codec, frame = find_codec("PCMU"), 160
    pcm = numbered_tones(SECONDS, 8_000, seed=3)
    log = CallLog(CallPlan("sip:127.0.0.1", "PCMU", pcm, 8_000), codec, pcm, status=200, ended_by=by)
    log.invited_ns = log.answered_ns = BEGIN_NS
    log.received_type, log.listened_until_ns = 0, BEGIN_NS + round(SECONDS * S)
    noise = np.random.default_rng(1).integers(-9_000, 9_000, frame).astype(np.int16)
    for index in range(len(pcm) // frame):
        log.sent_ns.append(BEGIN_NS + index * 20 * MS)
        log.audio_sent.append(1)
        said = index - LAG_FRAMES - (round(later * 50) if index > 300 + LAG_FRAMES else 0)
        is_lost = said < 0 or any(first <= said / 50 < last for first, last in missing)
        heard = (
            pcm[said * frame :][:frame] if not is_lost else noise if loud and said >= 0 else np.zeros(frame)
        )
        payload = codec.encode(np.asarray(heard, np.int16))
        log.datagrams.append(
            b"\x80\x00" + index.to_bytes(2, "big") + (index * frame).to_bytes(4, "big") + b"ssrc" + payload
        )
        log.arrivals_ns.append(BEGIN_NS + index * 20 * MS + 5 * MS)
    return log


def told(logs: Sequence[CallLog], promise: Promise | None = None) -> Outcome:
    outcome = Outcome("made up")
    judge_heard(outcome, logs, [FAULT], promise)
    return outcome


def test_a_gap_that_ends_with_its_fault_is_as_promised() -> None:
    outcome = told([call([(3.8, 7.0)])])
    assert not outcome.broken, outcome.line()
    assert outcome.figures["gap_ms_worst"] == pytest.approx(3200, abs=40)
    assert outcome.figures["back_s_worst"] == pytest.approx(1.0, abs=0.05)
    assert abs(outcome.figures["lag_change_ms_worst"]) < 5 and outcome.figures["ended_calls"] == 0


@pytest.mark.parametrize(
    ("log", "word"),
    [
        (call([(3.8, 9.0)]), "speech was missing up to"),
        (call([(4.0, 6.5), (9.0, 9.4)]), "when no fault was near"),
        (call([(1.0, 1.4)]), "when no fault was near"),
        (call([(3.8, 7.0)], later=0.2), "the delay afterwards is another one"),
        (call([(3.8, 7.0)], by="peer"), "1 calls were ended, but 0 should have been"),
        (call([(3.8, 7.0)], loud=True), "something else than comfort sound"),
    ],
)  # fmt: skip
def test_what_was_not_promised_is_told(log: CallLog, word: str) -> None:
    outcome = told([call([(3.8, 7.0)]), log])
    assert len(outcome.broken) == 1 and word in outcome.broken[0], outcome.line()


def test_a_call_without_packets_is_told_only_where_they_were_promised() -> None:
    log = call([(3.8, 6.2)])
    silent = [at_ns < FAULT[0] or at_ns > FAULT[1] for at_ns in log.arrivals_ns]
    log.datagrams = [data for data, kept in zip(log.datagrams, silent, strict=True) if kept]
    log.arrivals_ns = array("q", (at for at, kept in zip(log.arrivals_ns, silent, strict=True) if kept))
    assert any("ms without a packet" in one for one in told([log]).broken)
    assert not told([log], Promise(packets=False)).broken


def test_one_call_of_each_strike_may_hear_of_it_and_no_other() -> None:
    rows, counts = FAULT, (BEGIN_NS + 8 * S + 500 * MS, BEGIN_NS + 8 * S + 500 * MS)
    whole, one, other = call(), call([(4.0, 6.2)]), call([(8.4, 8.8)])

    def judged(*logs: CallLog) -> list[str]:
        outcome = Outcome("slots", dict.fromkeys(slots.COUNTED, 1))
        slots.judge_slots(outcome, logs, rows, counts)
        return outcome.broken

    assert judged(whole, one, other) == []
    assert judged(whole, one, one, other) == ["rows of one slot were written over, 2 calls heard it"]
    assert "1 calls heard of both" in judged(whole, call([(4.0, 6.2), (8.4, 8.8)]), one, other)
    assert any("speech was missing" in told for told in judged(whole, one, call([(8.4, 11.4)])))


def test_of_a_partition_the_one_without_rtp_ends_alone() -> None:
    def judged(*logs: CallLog) -> list[str]:
        outcome = Outcome("network")
        network.judge_partition(outcome, list(logs), FAULT)
        return outcome.broken

    away, lost, other = call([(4.0, 6.0)]), call([(4.0, 12.0)], by="peer"), call()
    assert judged(away, lost, other) == []
    assert "the call without RTP was ended by us" in judged(away, call([(4.0, 12.0)]), other)
    assert "2 calls were ended, but one should have been" in judged(away, lost, call(by="peer"))
    assert any("where there should be none" in told for told in judged(away, lost, call([(4.0, 4.4)])))


def test_a_record_that_is_an_hour_too_long_is_told() -> None:
    logs = [call(), call()]

    def judged(*lengths_s: float) -> Outcome:
        cdrs = [
            Cdr(f"c{n}", "sip", "n1", 5_000, ended_ms=5_000 + round(s * 1e3)) for n, s in enumerate(lengths_s)
        ]
        outcome = Outcome("clock")
        clock.judge_lengths(outcome, logs, cdrs)
        return outcome

    assert not judged(12.1, 11.9, 3.2).broken and judged(12.1, 11.9, 3.2).figures["cdr_off_s_worst"] < 0.3
    assert judged(3612.0, 12.0, 3.0).broken == ["records say that calls took [3612.0] s, which none did"]
    assert judged(-3588.0, 12.0, 3.0).broken and judged(12.0, 3.0).broken == ["2 records of 3 calls"]


def test_tokens_are_good_by_the_clock_that_there_is() -> None:
    names = [
        f"{when}, of {what}"
        for when in ("before", "an hour ahead", "after")
        for what in ("10 minutes", "2 hours")
    ]
    for statuses, holds in (
        ([200, 200, 401, 200, 200, 200], True),
        ([200] * 6, False),
        ([200, 200, 401, 401, 200, 200], False),
    ):
        outcome = Outcome("clock")
        clock.judge_statuses(outcome, dict(zip(names, statuses, strict=True)))
        assert (not outcome.broken) is holds


def test_a_recording_is_silent_for_as_long_as_the_disk_was_full() -> None:
    rng = np.random.default_rng(1)

    def recording(silent_s: float) -> np.ndarray:
        sound = rng.integers(-3_000, 3_000, (8_000 * 14, 2)).astype(np.int16)
        sound[24_000 : 24_000 + round(silent_s * 8_000)] = 0
        return sound

    def judged(dropped_s: float, *silences_s: float) -> list[str]:
        outcome = Outcome("disk", {"dropped_s": dropped_s})
        disk.judge_recordings(outcome, [recording(s) for s in silences_s], 2, 4.0)
        return outcome.broken

    assert disk.silence_s(recording(4.0)) == 4.0
    assert judged(8.4, 4.2, 4.2) == []
    assert "were counted as dropped" in judged(1.0, 4.2, 4.2)[0]
    assert "of a recording are silent" in judged(14.0, 4.2, 8.0)[0]
    assert "1 recordings are of a whole call" in judged(4.2, 4.2)[0]


def test_random_bytes_make_the_counts_of_a_ring_unsound() -> None:
    table = SlotTable.create(2)
    assert table.inbound.is_sound(0)
    slots.strike_rows(table.inbound, 0, random.Random(1))
    assert table.inbound.is_sound(0), "rows are not counts"
    slots.strike_counts(table.inbound, 0, random.Random(1))
    assert not table.inbound.is_sound(0) and table.inbound.is_sound(1)
    table.inbound.empty(0)
    assert table.inbound.is_sound(0), "a new lease sets them right"
    table.close()


def test_a_line_is_slow_cut_and_whole_again(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()

    async def story() -> None:
        server = await asyncio.start_unix_server(answer, str(tmp_path / "s"))
        loop = asyncio.get_running_loop()
        async with server, SlowLine(tmp_path / "s").listening() as line:
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            writer.write(b"a")
            assert await asyncio.wait_for(reader.read(1), 5.0) == b"A"
            line.delay_s, began_s = 0.2, loop.time()
            writer.write(b"b")
            assert await asyncio.wait_for(reader.read(1), 5.0) == b"B" and loop.time() - began_s >= 0.2
            line.cut()
            writer.write(b"c")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.5)
            line.delay_s = 0.0
            line.mend()
            assert await asyncio.wait_for(reader.read(1), 5.0) == b"", (
                "what was under way is lost with its connection"
            )
            again, writing = await asyncio.open_connection("127.0.0.1", line.port)
            writing.write(b"d")
            assert await asyncio.wait_for(again.read(1), 5.0) == b"D" and line.connections == 2
            for one in (writer, writing):
                one.close()

    asyncio.run(story())


def test_strangers_send_whole_packets_of_rtp(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(2.0)
        port = sink.getsockname()[1]
        assert strangers.main(["--ports", str(port), "--per-s", "2000", "--seconds", "0.1"]) == 0
        sent = json.loads(capsys.readouterr().out)["sent"]
        got = [sink.recvfrom(4096) for _ in range(min(sent, 20))]
    assert sent >= 20 and {len(data) for data, _ in got} == {172}
    assert all(data[:2] == b"\x80\x00" and source[0].startswith("127.0.2.") for data, source in got)
    assert strangers.main(["--ports", "x"]) == 2


def test_a_row_and_a_table_and_the_last_line(tmp_path: Path) -> None:
    held = Outcome("a", {"calls": 4, "gap_ms_worst": 0.0, "untouched": 4})
    broken = Outcome("b", {"gap_ms_worst": 900.0}, ["too long", "too late"])
    skipped = Outcome("c", skipped="takes root")
    rows = [matrix.row_of(one, 3) for one in (held, broken, skipped)]
    assert [row["held"] for row in rows] == ["yes", "no", "skipped"]
    assert rows[1]["broken"] == "too long; too late" and json.loads(rows[0]["figures"])["calls"] == 4
    result = matrix.result_of([held, broken, skipped], wheel=True)
    assert (result["held"], result["broken"], result["skipped"]) == (["a"], ["b"], {"c": "takes root"})
    lines = matrix.table([held, broken, skipped]).splitlines()
    assert len(lines) == 4 and lines[2].split() == ["b", "no", "900.0"]
    assert skipped.line() == "skipped c: takes root"
    assert matrix.draw(tmp_path / "x.png", [held, broken], "t") and (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("wrong", [["--cases", "nothing"], ["--calls", "0"], ["--strangers-per-s", "0"]])
def test_wrong_plans_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(wrong) == 2
    assert wrong[0] in capsys.readouterr().err


# -- with real calls


PLAN = Plan(("",), 2, 1, 0, 0, True, stalls_s=(1.0,), strangers_per_s=5_000.0)


def facts(case: str) -> Outcome:
    """A case, and what is broken of it but for sound."""
    plan = replace(PLAN, cases=(case,))
    (outcome,) = asyncio.run(command.run(plan, lambda one: None))
    outcome.broken = [one for one in outcome.broken if not any(word in one for word in SOUND)]
    return outcome


@pytest.mark.processes
def test_a_model_server_stands_still_for_a_second() -> None:
    outcome = facts("model-server-stalled")
    assert not outcome.broken, outcome.line()
    assert outcome.figures["ended_calls"] == 0 and 600 <= outcome.figures["gap_ms_worst"] < 5000
    assert outcome.figures["rings_full"] > 0


@pytest.mark.processes
@pytest.mark.long
def test_a_slot_is_written_over_and_its_call_gets_another() -> None:
    outcome = facts("slot-corrupted")
    told = [
        one for one in outcome.broken if "calls heard" not in one
    ]  # so does one that lost a turn by itself
    assert not told, outcome.line()
    assert outcome.figures["slots_damaged"] == 1 and outcome.figures["ended_calls"] == 0


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize(
    "case",
    [
        "model-slow", "sip-worker-stalled", "gateway-stalled", "redis-slow", "clock-jump", "network-partition",
        "flood", "disk-full",
    ],
)  # fmt: skip
def test_the_other_faults(case: str) -> None:
    outcome = facts(case)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert not outcome.broken, outcome.line()
