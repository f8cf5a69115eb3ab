"""What was made up is said at its place: held against marks on every sample, and losses at known places."""

from __future__ import annotations

import numpy as np
import pytest

from media.chunk import QUARTER_SAMPLES, QUARTERS, Chunk
from media.conceal import DELAY, shorten, stretch
from media.made_up import MadeUp, Runs, behind, fitted, quarters, total
from media.resample import CONTEXT_MS
from media.timebase import FRAMES_PER_TURN, MODEL_HZ, TURN_SAMPLES
from tests.support.two_doors import TURNS, over_frames, over_packets

FRAME = MODEL_HZ // 50
PLACES = range(5 * FRAMES_PER_TURN, 6 * FRAMES_PER_TURN)
"""Packets of one chunk in the middle of a call, on either door."""


def marks(runs: Runs, samples: int) -> np.ndarray:
    """bool [samples], true where a sample was made up."""
    marked = np.zeros(samples, bool)
    for first, end in runs:
        assert 0 <= first < end <= samples and not marked[first:end].any()
        marked[first:end] = True
    return marked


def by_quarter(marked: np.ndarray) -> list[int]:
    return [int(n) for n in marked.reshape(-1, QUARTER_SAMPLES).sum(axis=1)]


def losses(rng: np.random.Generator, samples: int, share: float) -> Runs:
    """Runs of 1 to 400 samples."""
    waiting = MadeUp()
    at = 0
    while (at := at + int(rng.exponential(200 / share))) < samples:
        run = min(int(rng.integers(1, 400)), samples - at)
        waiting.add(at, run)
        at += run + 1
    return waiting.take(samples)


def test_runs_are_taken_in_step_with_their_samples() -> None:
    rng = np.random.default_rng(1)
    made_up, all_marks, said = MadeUp(), np.zeros(0, bool), np.zeros(0, bool)
    for _ in range(500):
        more = rng.random(int(rng.integers(1, 6))) < 0.4  # frames
        frames = np.repeat(more, 160)
        for at in np.flatnonzero(more):
            made_up.add(len(all_marks) - len(said) + 160 * int(at), 160)
        all_marks = np.concatenate((all_marks, frames))
        samples = int(rng.integers(0, len(all_marks) - len(said) + 1))
        said = np.concatenate((said, marks(made_up.take(samples), samples)))
        assert made_up.waiting == all_marks[len(said) :].sum()
    assert np.array_equal(said, all_marks[: len(said)]) and 0 < said.mean() < 1


def test_a_quarter_has_what_was_made_up_in_it() -> None:
    rng = np.random.default_rng(2)
    for share in (0.01, 0.1, 0.5):
        for _ in range(100):
            runs = losses(rng, TURN_SAMPLES, share)
            assert list(quarters(runs)) == by_quarter(marks(runs, TURN_SAMPLES))
            assert sum(quarters(runs)) == total(runs)
    assert quarters(()) == (0,) * QUARTERS and quarters(((0, TURN_SAMPLES),)) == (QUARTER_SAMPLES,) * QUARTERS
    assert behind(30, ((0, 5), (7, 9))) == ((30, 35), (37, 39))


@pytest.mark.parametrize("surplus", [-320, -7, 0, 7, 480])
def test_runs_go_with_their_samples_where_sound_is_shortened_or_stretched(surplus: int) -> None:
    """Each sample's value is its place, so that what comes out says where it came from; seams between are mixed."""
    rng = np.random.default_rng(3)
    cross = MODEL_HZ * 5 // 1000
    for _ in range(50):
        pcm = np.arange(TURN_SAMPLES + surplus, dtype=np.int16)
        runs = losses(rng, len(pcm), 0.3)
        out, made_up = fitted(pcm, runs, TURN_SAMPLES, MODEL_HZ)
        assert np.array_equal(out, (shorten if surplus > 0 else stretch)(pcm, abs(surplus), MODEL_HZ)[0])
        kept = marks(made_up, TURN_SAMPLES)
        steps = np.diff(out.astype(int), prepend=-1)
        seam = np.flatnonzero(steps != 1)
        outside = np.ones(TURN_SAMPLES, bool)
        if surplus:
            assert seam.size and seam[-1] - seam[0] <= cross
            outside[seam[0] - 1 : seam[-1] + 1] = False
        assert np.array_equal(kept[outside], marks(runs, len(pcm))[out[outside]])


def said(chunks: list[Chunk]) -> list[int]:
    return [samples for chunk in chunks for samples in chunk.concealed_quarters]


def at_frames(lost: set[int], delay: int = 0) -> list[int]:
    """Of each quarter, what is missing when these 20 ms are, and all is heard `delay` samples later."""
    missing = np.isin(np.arange(FRAMES_PER_TURN * TURNS), list(lost))
    marked = np.repeat(missing, FRAME)
    return by_quarter(np.concatenate((np.zeros(delay, bool), marked))[: len(marked)])


@pytest.mark.parametrize("place", PLACES)
def test_a_lost_packet_of_a_browser_is_in_the_quarter_that_lacks_it(place: int) -> None:
    chunks = over_packets({place})
    assert said(chunks) == at_frames({place})
    heard = np.concatenate([chunk.pcm for chunk in chunks])  # `CountingDecoder` conceals by zeros
    assert said(chunks) == by_quarter(heard == 0)
    assert sum(chunk.lost_packets for chunk in chunks) == 1


@pytest.mark.parametrize(("rate_hz", "delay_ms"), [(8_000, CONTEXT_MS), (16_000, 0)])
@pytest.mark.parametrize("place", PLACES)
def test_a_lost_packet_of_a_telephone_is_in_the_quarter_that_lacks_it(
    place: int, rate_hz: int, delay_ms: int
) -> None:
    delay = DELAY * MODEL_HZ // 8_000 + delay_ms * MODEL_HZ // 1000
    chunks = over_frames({place}, rate_hz)
    assert said(chunks) == at_frames({place}, delay)
    assert sum(chunk.lost_packets for chunk in chunks) == 1


def test_the_sound_of_a_telephone_is_silent_as_long_as_it_says_that_it_was_made_up() -> None:
    """From 60 ms of a gap on there is silence; it ends where the made-up sound ends."""
    chunks = over_frames(set(range(53, 64)))
    made_up, pcm = said(chunks), np.concatenate([chunk.pcm for chunk in chunks])
    first, *_, last = np.flatnonzero(made_up)
    begin = (first + 1) * QUARTER_SAMPLES - made_up[first]
    end = last * QUARTER_SAMPLES + made_up[last]
    reach = CONTEXT_MS * MODEL_HZ // 1000
    assert end - begin == sum(made_up) == 11 * FRAME
    assert not pcm[begin + 3 * FRAME + reach : end - reach].any()
    assert pcm[end + reach : end + FRAME].any() and pcm[begin : begin + FRAME].any()


@pytest.mark.parametrize("seed", range(5))
def test_random_losses_are_said_where_they_are_on_both_doors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lost = {n for n in range(20, 100) if rng.random() < 0.2}  # the last chunks end whole
    assert said(over_packets(lost)) == at_frames(lost)
    delay = DELAY * MODEL_HZ // 8_000 + CONTEXT_MS * MODEL_HZ // 1000
    assert said(over_frames(lost)) == at_frames(lost, delay)
