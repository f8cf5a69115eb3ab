"""An hour in a car, in seconds: a recorded cellular uplink, with losses, copies, jitter and a drifting sender.

What was played, concealed, stretched, shortened and dropped has to agree with what was sent, to the sample. The
codec is no subject here, so it is `CountingDecoder`; the network is that of `loadtests netem`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtests.netem import profiles, traces
from loadtests.netem.emulator import Link
from loadtests.netem.jitter import GammaDelay
from loadtests.netem.loss import BurstLoss
from loadtests.netem.profiles import UMTS, Profile
from media.chunk import QUARTERS
from media.chunker import Cut
from media.delay import GUARD_MS, MAX_MS
from media.jitter import LATE_BOUND_MS, PLAY_MS, JitterBuffer
from media.made_up import quarters
from media.timebase import FRAME_MS, FRAME_NS, NS_PER_S, TURN_NS
from tests.support.virtual_line import CLOCK, FRAME, RATE, TICKS, TURN, CountingDecoder, numbered

pytestmark = pytest.mark.skipif(not traces.available(), reason=f"no recorded networks at {traces.NET}")
HOUR_S, CALM_S = 3_600, 20
HEADERS_BYTES = 50
SEAM = RATE * 5 // 1000
"""Samples that are mixed where sound was shortened or stretched."""


class Drive:
    """A sender, a link that is bad for an hour and calm for the last seconds, and a clock that cuts."""

    def __init__(self, profile: Profile, seed: int) -> None:
        self.link: Link[int] = Link(profile, seed)
        self.buffer = JitterBuffer(CountingDecoder(), RATE, CLOCK)
        self.cuts: list[Cut] = []
        self.delays_ms: list[float] = []
        self.backlogs_ms: list[float] = []
        """Packets that a cut left for the next one."""
        self.sent = (HOUR_S + CALM_S) * NS_PER_S // FRAME_NS
        cut_ns = TURN_NS + 7_000_000
        for index in range(self.sent):
            now_ns = index * FRAME_NS
            if index == HOUR_S * NS_PER_S // FRAME_NS:
                self.link.become(replace(profile.recovered, drift_ppm=0), now_ns)
            while cut_ns <= now_ns:
                self._cut(cut_ns)
                cut_ns += TURN_NS
            self.link.send(index, 80 + HEADERS_BYTES, now_ns)
        for _ in range(10):
            self._cut(cut_ns)
            cut_ns += TURN_NS

    def _cut(self, now_ns: int) -> None:
        while (at_ns := self.link.next_deadline()) is not None and at_ns <= now_ns:
            for index in self.link.poll(at_ns):
                sequence, timestamp = (
                    (65_000 + index) & 0xFFFF,
                    (2**32 - 480_000 + index * TICKS) & 0xFFFFFFFF,
                )
                self.buffer.receive_packet(1, sequence, timestamp, numbered(index), at_ns)
        self.cuts.append(self.buffer.cut(now_ns))
        self.delays_ms.append(self.buffer.delay_ms)
        self.backlogs_ms.append(self.buffer.waiting_packets * FRAME_MS)


@pytest.fixture(scope="module")
def drive() -> Drive:
    profile = replace(
        profiles.find(f"trace-{UMTS.removesuffix('.up')}"),
        loss=BurstLoss(0.02, 3.0),
        jitter=GammaDelay(8.0),
        duplicate=0.005,
        drift_ppm=-10.0,
    )
    return Drive(profile, seed=60)


def test_every_packet_that_was_sent_is_in_one_account_or_the_other(drive: Drive) -> None:
    link, packets = drive.link.account, drive.buffer.packets
    assert link.sent == drive.sent == 181_000
    assert link.lost > 2_500 and link.duplicated > 500 and link.overflowed > 0
    assert drive.link.waiting == 0
    assert packets.received == link.sent + link.duplicated - link.lost - link.overflowed
    named = packets.decoded + packets.late + packets.duplicate + packets.skipped + packets.stray
    assert packets.received == named + drive.buffer.waiting_packets
    assert packets.malformed == packets.undecodable == packets.restarts == 0


def test_what_was_played_is_what_was_sent_less_what_was_dropped_and_more_what_was_made_up(
    drive: Drive,
) -> None:
    link, packets, account = drive.link.account, drive.buffer.packets, drive.buffer.account
    played = sum(len(cut.pcm) for cut in drive.cuts)
    gone = link.lost + link.overflowed - link.duplicated
    unheard = (
        packets.late + packets.duplicate + packets.skipped + packets.stray + drive.buffer.waiting_packets
    )
    made_up = account.recovered + account.concealed + account.comfort + account.padded + account.stretched
    sent = drive.sent * FRAME
    left_out = account.shortened + account.retracted
    assert played + drive.buffer.waiting == sent - (gone + unheard) * FRAME + made_up - left_out
    assert min(account.concealed, account.shortened, account.stretched, packets.skipped) > 0


def test_chunks_say_all_of_it_to_the_model(drive: Drive) -> None:
    packets, account = drive.buffer.packets, drive.buffer.account
    assert sum(cut.concealed for cut in drive.cuts) == account.concealed - account.retracted
    assert sum(sum(quarters(cut.made_up)) for cut in drive.cuts) == sum(cut.concealed for cut in drive.cuts)
    assert sum(cut.dropped for cut in drive.cuts) == account.shortened + packets.skipped * FRAME
    assert sum(cut.lost for cut in drive.cuts) == drive.buffer.lost_packets
    assert all(cut.pcm.shape == (TURN,) and cut.concealed <= TURN for cut in drive.cuts)
    silent = sum(int((cut.pcm == 0).sum()) for cut in drive.cuts)  # `CountingDecoder` conceals by zeros
    assert silent == pytest.approx(account.concealed + account.padded, rel=0.01)


def test_each_50_ms_of_the_hour_says_what_of_it_was_made_up(drive: Drive) -> None:
    in_part = 0
    for cut in drive.cuts[1:]:  # the first is padded
        silent = (cut.pcm == 0).reshape(QUARTERS, -1).sum(axis=1)  # as above
        said = np.array(quarters(cut.made_up))
        assert np.abs(silent - said).max() <= SEAM
        in_part += len(set(said.tolist())) > 1
    assert in_part > 1_000


def test_no_hole_of_the_hour_is_left_in_the_delay(drive: Drive) -> None:
    calm = np.array(drive.delays_ms[-5 * (CALM_S - 2) :])  # from 2 s after the last bad packet
    assert calm.max() <= GUARD_MS + FRAME_MS + PLAY_MS
    assert max(drive.backlogs_ms) <= MAX_MS + LATE_BOUND_MS + 2 * FRAME_MS
    rounds = np.array_split(
        np.array(drive.backlogs_ms[: 5 * HOUR_S]), 4
    )  # the recording lasts a quarter of an hour
    assert [round(float(np.mean(part))) for part in rounds] == pytest.approx([np.mean(rounds[0])] * 4, abs=10)
