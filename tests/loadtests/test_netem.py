"""The weak-network lab: the emulator keeps its promises, figures are of what was heard, the wire carries."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.netem import lab, namespaces, profiles, receivers, score, speech, traces
from loadtests.netem.bottleneck import Bottleneck, ConstantRate, TraceRate
from loadtests.netem.calls import LivePlan, Timeline
from loadtests.netem.command import main, parse_arguments, table
from loadtests.netem.emulator import MAX_WAITING, Link
from loadtests.netem.jitter import GammaDelay, HeldDelay, UniformDelay
from loadtests.netem.lab import Sending
from loadtests.netem.loss import BurstLoss, TraceLoss, UniformLoss
from loadtests.netem.profiles import Profile
from loadtests.netem.way import Span, Way
from loadtests.netem.wire import WirePlan, call_port, is_rtp
from media.timebase import FRAME_NS, NS_PER_MS, NS_PER_S

ROOT = Path(__file__).parents[2]
PLAIN = Profile("plain", "30 ms, nothing else")
needs_traces = pytest.mark.skipif(not traces.available(), reason=f"no recorded networks at {traces.NET}")
needs_speech = pytest.mark.skipif(
    not (speech.DATA / "speech/other").is_dir(), reason=f"no speech at {speech.DATA}"
)


def carried(
    profile: Profile, seed: int, count: int = 2_000, every_ns: int = FRAME_NS, size: int = 150
) -> Sent:
    """Packets at a steady rate through a link, each polled at its own time."""
    link: Link[int] = Link(profile, seed)
    arrivals: list[tuple[int, int]] = []
    for index in range(count):
        now_ns = index * every_ns
        _take(link, now_ns, arrivals)
        link.send(index, size, now_ns)
    _take(link, None, arrivals)
    return Sent(link, arrivals, every_ns)


class Sent:
    def __init__(self, link: Link[int], arrivals: list[tuple[int, int]], every_ns: int) -> None:
        self.link, self.arrivals = link, arrivals
        self.indices = [index for index, _ in arrivals]
        self.delays_ms = np.array([(at_ns - index * every_ns) / NS_PER_MS for index, at_ns in arrivals])

    @property
    def lost(self) -> np.ndarray:
        """One flag for each packet sent."""
        missing = np.ones(self.link.account.sent, bool)
        missing[self.indices] = False
        return missing


def _take(link: Link[int], until_ns: int | None, arrivals: list[tuple[int, int]]) -> None:
    while (at_ns := link.next_deadline()) is not None and (until_ns is None or at_ns <= until_ns):
        assert link.poll(at_ns - 1) == []
        arrivals += [(index, at_ns) for index in link.poll(at_ns)]


def balance(link: Link[int]) -> None:
    account = link.account
    gone = account.delivered + account.lost + account.overflowed + link.waiting
    assert account.sent + account.duplicated == gone, account


# The emulator.


@pytest.mark.parametrize("name", [name for name in profiles.names() if name != "clean"])
def test_a_profile_is_the_same_network_again_and_another_one_for_another_seed(name: str) -> None:
    profile = profiles.find(name)
    first, again, other = (carried(profile, seed) for seed in (5, 5, 6))
    assert first.arrivals == again.arrivals and first.link.account == again.link.account
    assert (first.arrivals == other.arrivals) is (profile.loss is None and profile.jitter is None)
    for sent in (first, other):
        balance(sent.link)
        assert sent.link.waiting == 0 and sent.delays_ms.min() >= 0


def test_a_clean_link_delivers_everything_in_order_after_the_shortest_time() -> None:
    sent = carried(PLAIN, 1)
    assert sent.indices == list(range(2_000))
    assert set(sent.delays_ms) == {30.0}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
def test_uniform_loss_loses_what_is_asked_in_runs_as_chance_makes_them(share: float) -> None:
    lost = carried(replace(PLAIN, loss=UniformLoss(share)), 3, count=20_000).lost
    assert lost.mean() == pytest.approx(share, abs=4 * np.sqrt(share / 20_000))
    assert np.mean(runs(lost)) == pytest.approx(1 / (1 - share), rel=0.1)


@pytest.mark.parametrize(("share", "run"), [(0.02, 3.0), (0.2, 3.0), (0.2, 10.0), (0.4, 1.8)])
def test_burst_loss_has_the_share_and_the_runs_that_are_asked(share: float, run: float) -> None:
    lost = carried(replace(PLAIN, loss=BurstLoss(share, run)), 4, count=60_000).lost
    assert lost.mean() == pytest.approx(share, rel=0.12)
    assert np.mean(runs(lost)) == pytest.approx(run, rel=0.08)


def test_bursts_that_lose_only_a_part_are_longer_than_the_runs_of_lost_packets() -> None:
    lost = carried(replace(PLAIN, loss=BurstLoss(0.1, 8.0, bad_loss=0.5)), 4, count=60_000).lost
    assert lost.mean() == pytest.approx(0.1, rel=0.12)
    assert np.mean(runs(lost)) < 2.5


def runs(lost: np.ndarray) -> np.ndarray:
    """Lengths of the runs of lost packets."""
    edges = np.diff(np.concatenate(([0], lost.astype(int), [0])))
    return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


def test_jitter_is_distributed_as_asked_and_packets_overtake_only_where_they_may() -> None:
    free = carried(replace(PLAIN, jitter=UniformDelay(60.0), reorder=True), 5, count=20_000)
    extra = free.delays_ms - 30
    assert extra.min() >= 0 and extra.max() <= 60
    assert np.quantile(extra, [0.1, 0.5, 0.9]) == pytest.approx([6, 30, 54], abs=1.5)
    assert free.link.account.overtaken > 2_000
    held = carried(replace(PLAIN, jitter=UniformDelay(60.0)), 5, count=20_000)
    assert held.link.account.overtaken == 0 and held.indices == sorted(held.indices)
    gamma = carried(replace(PLAIN, jitter=GammaDelay(15.0), reorder=True), 5, count=20_000).delays_ms - 30
    assert gamma.mean() == pytest.approx(15, rel=0.05) and gamma.max() <= 150


def test_a_busy_radio_holds_everything_for_as_long_and_as_often_as_asked() -> None:
    sent = carried(replace(PLAIN, jitter=HeldDelay(2.0, 30.0, 150.0, UniformDelay(0.0))), 6, count=60_000)
    extra = sent.delays_ms - 30
    assert extra.max() <= 150 and (extra > 100).any()
    begun = np.flatnonzero((extra[1:] > 0) & (extra[:-1] == 0)).size
    assert begun == pytest.approx(1200 / 2.09, rel=0.15)  # 20 minutes, one hold of 90 ms each 2 s


def test_copies_come_at_the_rate_that_is_asked_and_are_in_the_account() -> None:
    sent = carried(replace(PLAIN, duplicate=0.05), 7, count=20_000)
    assert sent.link.account.duplicated == pytest.approx(1_000, rel=0.12)
    assert len(sent.indices) == 20_000 + sent.link.account.duplicated
    assert set(sent.indices) == set(range(20_000))


def test_a_stall_ends_in_a_burst_and_nothing_is_lost() -> None:
    sent = carried(replace(PLAIN, stalls=((2.0, 1000.0),)), 8, count=500)
    times_ms = sent.delays_ms + np.array(sent.indices) * 20
    assert sent.indices == list(range(500))
    assert not ((times_ms > 2_030) & (times_ms < 3_030)).any()
    assert (times_ms == 3_030).sum() == 51  # those of a second, and the one that is on time


@pytest.mark.parametrize("ppm", [200.0, -200.0])
def test_drift_is_a_delay_that_grows_or_shrinks(ppm: float) -> None:
    sent = carried(replace(PLAIN, drift_ppm=ppm), 9, count=5_000)
    assert sent.delays_ms[-1] - sent.delays_ms[0] == pytest.approx(-ppm * 1e-6 * 4_999 * 20, abs=0.001)
    periods_ns = np.diff([at_ns for _, at_ns in sent.arrivals])
    assert periods_ns.mean() == pytest.approx(FRAME_NS * (1 - ppm * 1e-6), abs=1)


def test_a_narrow_place_carries_its_rate_and_its_queue_has_a_bound() -> None:
    narrow = replace(PLAIN, rate=ConstantRate(48.0), queue_bytes=3_000)
    sent = carried(narrow, 10, count=3_000, size=150)  # 60 kbit/s
    assert sent.link.account.delivered == pytest.approx(3_000 * 48 / 60, rel=0.02)
    assert sent.link.account.overflowed == 3_000 - sent.link.account.delivered
    assert sent.delays_ms.max() <= 30 + 3_000 * 8 / 48 + 25
    assert sent.delays_ms[0] == pytest.approx(30 + 150 * 8 / 48)
    wide = carried(replace(narrow, rate=ConstantRate(96.0)), 10)
    assert wide.link.account.overflowed == 0 and wide.delays_ms.max() == pytest.approx(30 + 12.5)


def test_a_full_link_refuses_more_and_says_so() -> None:
    link: Link[int] = Link(PLAIN, 1)
    for index in range(MAX_WAITING + 50):
        link.send(index, 100, 0)
    assert link.account.overflowed == 50 and link.waiting == MAX_WAITING
    balance(link)


def test_a_network_may_change_and_what_is_under_way_stays_in_order() -> None:
    link: Link[int] = Link(replace(PLAIN, base_ms=200.0), 1)
    link.send(0, 100, 0)
    link.become(PLAIN, 20 * NS_PER_MS)
    link.send(1, 100, 20 * NS_PER_MS)
    assert link.next_deadline() == 200 * NS_PER_MS
    assert link.poll(200 * NS_PER_MS) == [0, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 1500)), min_size=1, max_size=200),
    st.sampled_from([name for name in profiles.names()]),
    st.integers(0, 99),
)
def test_whatever_is_sent_is_delivered_lost_refused_or_under_way(
    sends: list[tuple[int, int]], name: str, seed: int
) -> None:
    link: Link[int] = Link(profiles.find(name), seed)
    now_ns = 0
    seen: list[int] = []
    for number, (pause_ms, size) in enumerate(sends):
        now_ns += pause_ms * NS_PER_MS
        link.send(number, size, now_ns)
        seen += link.poll(now_ns)
        balance(link)
        deadline_ns = link.next_deadline()
        assert deadline_ns is None or deadline_ns > now_ns
    seen += link.poll(10**18)
    balance(link)
    assert link.waiting == 0 and link.account.delivered == len(seen)


@needs_traces
@pytest.mark.parametrize("name", traces.rate_names())
def test_a_recorded_link_carries_what_it_carried_when_it_was_recorded(name: str) -> None:
    stamps = traces.opportunities_ms(name)
    place = Bottleneck(TraceRate(name).begin(0), 1 << 40)
    passed = [place.admit(1500, 0) for _ in range(2 * len(stamps))]
    assert passed[: len(stamps)] == [int(at) * NS_PER_MS for at in stamps]
    length_ns = int(stamps[-1]) * NS_PER_MS
    assert passed[len(stamps) :] == [int(at) * NS_PER_MS + length_ns for at in stamps]


@needs_traces
def test_small_packets_share_an_opportunity_and_an_unused_one_is_gone() -> None:
    name = traces.rate_names()[0]
    stamps = np.unique(traces.opportunities_ms(name))
    server = TraceRate(name).begin(0)
    at = int(stamps[10])
    first = server.serve(100, at * NS_PER_MS - 1)
    assert first == server.serve(100, at * NS_PER_MS - 1) == at * NS_PER_MS
    assert server.serve(100, at * NS_PER_MS + 1) == int(stamps[11]) * NS_PER_MS


@needs_traces
@pytest.mark.parametrize("name", traces.loss_names())
def test_a_recorded_call_loses_what_it_lost(name: str) -> None:
    mask = traces.losses(name)
    lost = carried(replace(PLAIN, loss=TraceLoss(name)), 11, count=len(mask)).lost
    assert lost.sum() == mask.sum()
    assert any((np.roll(mask, -start) == lost).all() for start in range(len(mask)))


def test_wrong_wishes_are_refused_with_what_there_is() -> None:
    for wrong in (lambda: UniformLoss(1.0), lambda: UniformLoss(-0.1), lambda: BurstLoss(0.2, 0.5)):
        with pytest.raises(ValueError, match=r"loss of|bursts of"):
            wrong()
    with pytest.raises(ValueError, match="loss-5-jitter-60"):
        profiles.find("4G")
    with pytest.raises(ValueError, match="choose from"):
        profiles.find("trace-nowhere")


# Figures.


def test_recovery_is_the_time_until_the_delay_is_back_and_stays() -> None:
    times_ns = np.arange(0, 10, 0.2) * NS_PER_S
    windows = score.windows_of(np.zeros(320, np.int16), 0, score.Heard(np.zeros(320, np.int16), 0))
    delay_ms = np.where((times_ns >= 2 * NS_PER_S) & (times_ns < 4.9 * NS_PER_S), 300.0, 50.0)
    windows = replace(windows, sent_ns=times_ns.astype(np.int64), delay_ms=delay_ms)
    assert score.recovery_ms(windows, 50.0, 4 * NS_PER_S, 9 * NS_PER_S) == pytest.approx(1000)
    assert score.recovery_ms(windows, 50.0, 6 * NS_PER_S, 9 * NS_PER_S) == 0
    assert score.recovery_ms(windows, 24.0, 4 * NS_PER_S, 9 * NS_PER_S) is None
    assert score.recovery_ms(windows, 50.0, 4 * NS_PER_S, round(4.5 * NS_PER_S)) is None


def test_accuracy_counts_substitutions_deletions_and_insertions() -> None:
    assert score.edits(["a", "b", "c"], ["a", "b", "c"]) == 0
    assert score.edits(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert score.accuracy([["one", "two"], ["three"]], [["one"], ["three", "four"]]) == pytest.approx(33.33)


@needs_speech
def test_pesq_of_the_same_is_the_best_and_of_silence_the_worst() -> None:
    said = speech.joined(speech.sentences(), 8.0)
    heard = score.Heard(np.concatenate((np.zeros(1_600, np.int16), said)), 0)
    best = score.mos(said, 0, heard, 100.0, 0, 8 * NS_PER_S)
    assert best is not None and best > 4.6
    assert score.mos(said, 0, score.Heard(np.zeros_like(said), 0), 0.0, 0, 8 * NS_PER_S) == 1.0
    assert float(np.median(score.windows_of(said, 0, heard).delay_ms)) == pytest.approx(100, abs=0.1)


@needs_speech
def test_side_by_side_ours_comes_back_and_aiortc_keeps_the_delay_of_one_stall() -> None:
    found = lab.measure(
        Sending(replace(profiles.find("stall-1s"), stalls=((1.0, 600.0),)), "fec", "nack", 1), 4.0
    )
    ours, theirs = found["ours"].figures, found["aiortc"].figures
    assert ours["mos_clean"] > 3.9 and theirs["mos_clean"] > 3.9
    assert ours["recovery_ms"] is not None and ours["recovery_ms"] <= 2_000
    assert ours["delay_ms"]["after"] == pytest.approx(ours["delay_ms"]["floor"], abs=1)
    assert theirs["recovery_ms"] is None
    assert theirs["delay_ms"]["after"] >= theirs["delay_ms"]["floor"] + 400


@needs_speech
def test_five_percent_of_loss_and_jitter_of_60_ms_cost_little_with_fec_and_the_same_every_time() -> None:
    sending = Sending(profiles.find("loss-5-jitter-60"), "hybrid", "fec", 2)
    first, again = (lab.measure(sending, 10.0)["ours"].figures for _ in range(2))
    for figures in (first, again):
        figures.pop("cpu_us_per_turn"), figures.pop("cpu_us_per_turn_clean")
    assert first == again
    assert first["mos"] >= 3.6 and first["mos_clean"] > first["mos"]
    assert first["recovered_ms"] > first["concealed_ms"] > 0
    assert first["recovery_ms"] <= 2_000


@needs_speech
def test_bursts_that_fec_cannot_mend_are_mended_by_repeats_and_the_wait_for_them_ends_with_them() -> None:
    bursts = profiles.find("burst-20")
    fec, nack = (
        lab.measure(Sending(bursts, "fec", repair, 1), 8.0)["ours"].figures for repair in ("fec", "nack")
    )
    assert nack["repaired_packets"] > 60 and fec["repaired_packets"] == 0
    assert nack["concealed_ms"] < 0.5 * fec["concealed_ms"]
    assert nack["mos"] > fec["mos"] + 0.5
    assert nack["recovery_ms"] <= 2_000
    assert nack["delay_ms"]["after"] == pytest.approx(nack["delay_ms"]["floor"], abs=1)


@needs_speech
def test_redundant_audio_brings_lost_packets_back_and_aiortc_is_left_out() -> None:
    found = lab.measure(Sending(profiles.find("loss-5"), "celt", "red", 1), 4.0)
    assert list(found) == ["ours"]
    figures = found["ours"].figures
    assert figures["repaired_packets"] > 3 + 4 * figures["lost_packets"]
    assert figures["mos_clean"] > 3.6


def test_a_repeat_comes_a_round_trip_after_it_was_asked_for_and_only_once() -> None:
    packets = [b"x"] * 100
    way = Way(replace(PLAIN, loss=UniformLoss(0.1)), 3, packets, Span(0, 10**12))
    arrived = {arrival.index for arrival in way.until(50 * FRAME_NS)}
    lost = min(set(range(40)) - arrived)
    way.ask([lost, lost], 50 * FRAME_NS)
    later = way.until(None)
    again = [arrival.at_ns for arrival in later if arrival.index == lost]
    assert again == [50 * FRAME_NS + way.round_trip_ns]
    assert way.account.sent == len(packets) + 1


def test_a_packet_of_long_ago_is_not_repeated() -> None:
    way = Way(PLAIN, 3, [b"x"] * 200, None)
    way.until(150 * FRAME_NS)
    way.ask([3], 150 * FRAME_NS)
    assert way.until(None)[-1].index == 199 and way.account.sent == 200


@needs_speech
def test_every_coding_is_packets_of_20_ms() -> None:
    pcm = speech.joined(speech.sentences(), 1.0)
    for coding in speech.CODINGS.values():
        packets = coding(pcm)
        assert len(packets) in (50, 51) and all(packets)
        arrivals = Way(PLAIN, 1, packets, None).until(None)
        assert [arrival.index for arrival in arrivals] == list(range(len(packets)))
        heard = receivers.ours(packets, Way(PLAIN, 1, packets, None), len(packets) * FRAME_NS)
        assert heard.concealed_ms == heard.lost_packets == heard.late_packets == 0


# The wire.


def udp(source: int, target: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, bytes(4), bytes(4))
    return head + struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def test_the_wire_tells_calls_from_what_passes_untouched() -> None:
    clear = frozenset({5060})
    rtp = udp(40_001, 9_000, bytes([0x80, 0]) + bytes(20))
    assert call_port(rtp, True, clear) == 40_000 and call_port(rtp, False, clear) == 9_000
    assert call_port(udp(40_000, 5060, b"INVITE"), True, clear) is None
    assert call_port(rtp[:9] + b"\x06" + rtp[10:], True, clear) is None  # TCP
    assert call_port(b"\x60" + rtp[1:], True, clear) is None and call_port(rtp[:24], True, clear) is None
    assert is_rtp(rtp) and not is_rtp(udp(1, 2, bytes([0x80, 200]) + bytes(20)))
    assert not is_rtp(udp(1, 2, bytes([0x00, 1]) + bytes(20)))  # STUN


def test_a_plan_survives_the_command_line() -> None:
    plan = WirePlan((3, 4), "loss-5", 7, frozenset({5060}), ((1.5, True, False), (2.0, False, False)))
    assert WirePlan.from_json(plan.as_json()) == plan


def test_the_network_is_bad_while_x_is_said_and_good_between() -> None:
    timeline = Timeline(8.0)
    clean, up, down = timeline.spells
    assert clean.until_s < timeline.script[0][0] < up.from_s
    assert [at_s for at_s, *_ in timeline.script] == sorted(at_s for at_s, *_ in timeline.script)
    assert timeline.script[1][0] == up.until_s and timeline.script[3] == (down.until_s, False, False)
    assert timeline.length_s - down.until_s >= 4


@pytest.mark.processes
def test_two_namespaces_hear_each_other_through_the_wire_as_the_profile_says() -> None:
    with contextlib.ExitStack() as stack:
        caller, gateway = needs_wire(stack)
        there = bound(stack, gateway, 9_000)
        clear = bound(stack, gateway, 5060)
        here = bound(stack, caller, 40_000)
        plan = WirePlan((caller.tun, gateway.tun), "loss-20", 3, frozenset({5060}), ((0.0, True, False),))
        wire = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "loadtests.netem.wire", plan.as_json()],
                pass_fds=plan.tuns,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert wire.stdout is not None and wire.stdout.readline() == "ready\n"
        here.sendto(b"OPTIONS", (namespaces.GATEWAY, 5060))
        assert clear.recv(100) == b"OPTIONS"
        for index in range(200):
            here.sendto(bytes([0x80, 0]) + index.to_bytes(2, "big") + bytes(16), (namespaces.GATEWAY, 9_000))
        there.sendto(b"\x80\0" + bytes(18), (namespaces.CALLER, 40_000))
        assert len(here.recv(100)) == 20
        heard = []
        with contextlib.suppress(TimeoutError):  # a second without
            while True:
                heard.append(int.from_bytes(there.recv(100)[2:4], "big"))
        told = json.loads(wire.communicate("", 10.0)[0])
    assert heard == sorted(heard) and 130 <= len(heard) <= 185
    assert told["up"] == told["up"] | {"sent": 200, "delivered": len(heard), "lost": 200 - len(heard)}
    assert told["down"]["delivered"] == 1 and told["lines"] == 1 and told["untouched"] >= 1


def needs_wire(stack: contextlib.ExitStack) -> tuple[namespaces.End, namespaces.End]:
    """(caller, gateway); skips the test where they cannot be made."""
    if missing := namespaces.why_not() or namespaces.why_no_wire():
        pytest.skip(missing)
    try:
        return stack.enter_context(namespaces.wired())
    except OSError as error:
        pytest.skip(f"no TUN device between namespaces here: {error.strerror}")


def bound(stack: contextlib.ExitStack, end: namespaces.End, port: int) -> socket.socket:
    """A UDP socket at one end."""
    with end.entered():
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind((end.address, port))
    sock.settimeout(1.0)
    return sock


# The command.


def test_arguments_are_checked_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--profile", "4G"]) == 2 and "choose from" in capsys.readouterr().err
    assert main(["--profile", "clean", "--leg", "sip", "--codec", "G729"]) == 2
    assert main(["--profile", "clean", "--seconds", "1"]) == 2
    assert main(["--profile", "clean", "--leg", "chromium", "--repair", "fec"]) == 2
    assert main(["--profile", "clean", "--leg", "memory,letter"]) == 2
    side_by_side = parse_arguments(["--profile", "clean", "--leg", "all", "--calls", "3"])
    assert side_by_side.legs[0] == "memory" and {"webrtc", "chromium", "sip"} < set(side_by_side.legs)
    assert [side_by_side.live("clean", leg).calls for leg in ("webrtc", "chromium", "sip")] == [3, 1, 3]
    everything = parse_arguments(["--profile", "all", "--leg", "memory"])
    assert {"clean", "burst-20", "jitter-300", "drift-200ppm"} <= set(everything.profiles)
    with pytest.raises(ValueError, match="--leg"):
        LivePlan("clean", "letter", 1, 8.0, "PCMU", 1)


@needs_speech
def test_the_last_line_has_the_keys_that_checks_rely_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--leg", "memory", "--seconds", "4", "--results", str(tmp_path)]
    assert main(["--profile", "loss-5", *arguments]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"mos", "mos_clean", "delay_ms", "recovery_ms", "missed_turns"} <= set(last)
    assert 1 < last["mos"] < last["mos_clean"] < 5
    assert (tmp_path / "netem.csv").read_text().count("\n") == 2
    assert (tmp_path / "netem-memory-loss-5.png").stat().st_size > 10_000
    assert "loss-5" in table([last])
