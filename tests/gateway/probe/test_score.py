"""PESQ of the clip: the same samples have the same score, and what is missing costs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pesq", reason="pip install 'microturn[probe]'")

from gateway.caller.codec import find_codec
from gateway.probe.place import clip
from gateway.probe.score import NARROW_HZ, WIDE_HZ, Samples, lag_of, pesq_mos, score_in

OF_CODECS = [("PCMU", NARROW_HZ, 4.482), ("PCMA", NARROW_HZ, 4.479), ("G722", WIDE_HZ, 4.325)]


def coded(codec: str, rate_hz: int) -> Samples:
    found = find_codec(codec)
    pcm = clip(rate_hz)
    whole = pcm[: len(pcm) // (rate_hz // 50) * (rate_hz // 50)]
    return found.decode(found.encode(whole))[: len(whole)]


def with_holes(pcm: Samples, rate_hz: int, share: float, seed: int) -> Samples:
    """Frames of 20 ms are silence, by chance."""
    out, size = pcm.copy(), rate_hz // 50
    for at in np.flatnonzero(np.random.default_rng(seed).random(len(out) // size) < share).tolist():
        out[at * size : (at + 1) * size] = 0
    return out


@pytest.mark.parametrize(("codec", "rate_hz", "mos"), OF_CODECS)
def test_the_clip_through_a_codec_alone_has_its_score_every_time(
    codec: str, rate_hz: int, mos: float
) -> None:
    heard = coded(codec, rate_hz)
    said = clip(rate_hz)[: len(heard)]
    first = pesq_mos(said, heard, rate_hz)
    assert first == pytest.approx(mos, abs=0.02) and first == pesq_mos(said, heard, rate_hz)


def test_more_loss_is_a_lower_score() -> None:
    said = clip(NARROW_HZ)
    scores = [
        pesq_mos(said, with_holes(said, NARROW_HZ, share, 7), NARROW_HZ) for share in (0, 0.02, 0.1, 0.3)
    ]
    assert scores[0] == pytest.approx(4.55, abs=0.01)
    assert all(
        a is not None and b is not None and a > b + 0.2 for a, b in zip(scores, scores[1:], strict=False)
    )


def test_the_clip_is_found_wherever_it_lies_in_a_recording() -> None:
    said = clip(NARROW_HZ)
    for lag in (0, 1, 2_877, 16_000):
        recording = np.concatenate(
            [np.zeros(lag, np.int16), coded("PCMU", NARROW_HZ), np.zeros(900, np.int16)]
        )
        assert lag_of(said, recording) == lag
        found = score_in(said, recording, NARROW_HZ)
        assert found is not None and found > 4.4
    late = np.concatenate([said[4_000:], np.zeros(8_000, np.int16)])  # its first half second was not recorded
    assert lag_of(said, late) == -4_000
    assert (score_in(said, late, NARROW_HZ) or 0) > 4.3, "that was the pause"


def test_silence_is_the_worst_and_nothing_said_is_no_score() -> None:
    said = clip(NARROW_HZ)
    assert pesq_mos(said, np.zeros_like(said), NARROW_HZ) == 1.0
    assert pesq_mos(np.zeros_like(said), said, NARROW_HZ) is None
    assert pesq_mos(said[:1_000], said[:1_000], NARROW_HZ) is None, "too short to have speech in it"
    with pytest.raises(ValueError, match="PESQ at 44100 Hz: expected 8000 or 16000"):
        pesq_mos(said, said, 44_100)
