from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.model.vocoder import (
    FEATURES,
    FLOOR,
    LOG_F0,
    MELS,
    SUBFRAME_SAMPLES,
    SUBFRAMES_PER_TURN,
    VOICING,
    Vocoder,
    VocoderState,
    mel_edges_hz,
)


def steady(turns: int, f0_hz: float = 150.0, voicing: float = 1.0, log_mel: float = -1.0) -> Tensor:
    """Features [1, 16 turns, F] of a sound that does not change."""
    features = torch.full((1, turns * SUBFRAMES_PER_TURN, FEATURES), log_mel)
    features[..., LOG_F0] = math.log(f0_hz)
    features[..., VOICING] = voicing
    return features


def silent(turns: int) -> Tensor:
    return steady(turns, voicing=0.0, log_mel=FLOOR)


def lively(calls: int, turns: int, seed: int = 3) -> Tensor:
    """Features [B, 16 turns, F] that move as speech does, with pauses in them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (calls, turns * SUBFRAMES_PER_TURN)
    features = torch.empty(*shape, FEATURES)
    features[..., :MELS] = torch.randn(*shape, 1, generator=generator) * 0.5 - 1.5
    features[..., :MELS] += torch.randn(*shape, MELS, generator=generator) * 0.3
    features[..., LOG_F0] = math.log(170) + 0.2 * torch.randn(shape, generator=generator)
    features[..., VOICING] = torch.rand(shape, generator=generator)
    features[torch.rand(shape, generator=generator) < 0.2] = silent(1)[0, 0]
    return features


def in_turns(vocoder: Vocoder, features: Tensor, state: VocoderState | None = None) -> Tensor:
    state = state or vocoder.start(len(features))
    parts = []
    for turn in features.split(SUBFRAMES_PER_TURN, 1):
        pcm, state = vocoder(turn, state)
        parts.append(pcm)
    return torch.cat(parts, 1)


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    return Vocoder()


def test_turns_sound_as_one_piece_bit_for_bit(vocoder: Vocoder) -> None:
    features = lively(3, 7)
    whole, after = vocoder(features, vocoder.start(3))
    state = vocoder.start(3)
    for number, turn in enumerate(features.split(SUBFRAMES_PER_TURN, 1)):
        pcm, state = vocoder(turn, state)
        assert pcm.shape == (3, TURN_SAMPLES) and pcm.dtype == torch.int16
        assert torch.equal(pcm, whole[:, number * TURN_SAMPLES : (number + 1) * TURN_SAMPLES])
    assert torch.equal(state.phase, after.phase) and torch.equal(state.tail, after.tail)
    assert whole.abs().max() > 1000


def test_a_call_sounds_the_same_in_any_batch(vocoder: Vocoder) -> None:
    features = lively(19, 2)
    together = in_turns(vocoder, features)
    for call in (0, 7, 18):
        assert torch.equal(in_turns(vocoder, features[call : call + 1]), together[call : call + 1])


def test_no_click_where_turns_meet(vocoder: Vocoder) -> None:
    """The second difference, which a step shows in most, is at borders what it is elsewhere."""
    pcm = in_turns(vocoder, steady(40, f0_hz=137.0, log_mel=-1.3))[0].double()
    bend = pcm.diff(n=2).square()
    border = torch.zeros(len(bend), dtype=torch.bool)
    for start in range(TURN_SAMPLES, len(pcm), TURN_SAMPLES):
        border[start - 4 : start + 2] = True
    assert border.sum() == 39 * 6
    assert bend[border].mean() < 1.5 * bend[~border].mean()


def test_silence_is_zeros_once_the_sound_has_rung_out(vocoder: Vocoder) -> None:
    loud, state = vocoder(lively(2, 2), vocoder.start(2))
    fading, state = vocoder(silent(1).expand(2, -1, -1), state)
    assert loud[:, -400:].abs().max() > 100
    assert fading[:, 4 * SUBFRAME_SAMPLES :].count_nonzero() == 0
    assert vocoder(silent(1).expand(2, -1, -1), state)[0].count_nonzero() == 0


def test_the_pulses_keep_their_pitch(vocoder: Vocoder) -> None:
    pcm = in_turns(vocoder, steady(10, f0_hz=200.0))[0].double()[TURN_SAMPLES:]
    spectrum = torch.fft.rfft(pcm * torch.hann_window(len(pcm), dtype=torch.float64)).abs()
    hz = torch.arange(len(spectrum)) * MODEL_HZ / len(pcm)
    low = (hz > 100) & (hz < 3000)
    harmonic = (hz / 200 - (hz / 200).round()).abs() < 0.05
    assert spectrum[low & harmonic].square().sum() > 1000 * spectrum[low & ~harmonic].square().sum()


@pytest.mark.parametrize("voicing", [0.0, 0.5, 1.0])
def test_a_flat_envelope_has_its_level_whatever_the_source(vocoder: Vocoder, voicing: float) -> None:
    pcm = in_turns(vocoder, steady(20, voicing=voicing, log_mel=-1.3))[0].double() / 32768
    level = pcm[TURN_SAMPLES:].square().mean().sqrt().log10()
    assert abs(20 * (level + 1.3)) < 1.5


def test_one_mel_raised_is_heard_where_it_lies(vocoder: Vocoder) -> None:
    features = steady(20, voicing=0.0, log_mel=-3.5)
    features[..., 40] = -1.0
    pcm = in_turns(vocoder, features)[0].double()
    power = torch.fft.rfft(pcm).abs().square()
    loudest_hz = float((power * torch.arange(len(power))).sum() / power.sum()) * MODEL_HZ / len(pcm)
    assert abs(loudest_hz / mel_edges_hz()[41] - 1) < 0.05


def test_the_sound_begins_with_its_first_vector(vocoder: Vocoder) -> None:
    """Vector j is heard round sample 200 j + 200: less than 20 ms after it was given."""
    features = torch.cat((silent(1), steady(1), silent(1)), 1)
    pcm = in_turns(vocoder, features)[0].double()
    heard = pcm.abs().gt(pcm.abs().max() / 100).nonzero().flatten()
    assert TURN_SAMPLES <= heard[0] < TURN_SAMPLES + 0.02 * MODEL_HZ
    assert pcm[:TURN_SAMPLES].count_nonzero() == 0


def test_calls_come_and_go_in_a_table_of_states(vocoder: Vocoder) -> None:
    features = lively(4, 3)
    table = vocoder.start(4)
    rows = torch.tensor([2, 0])
    first, state = vocoder(features[rows, :SUBFRAMES_PER_TURN], table.select(rows))
    table.put(rows, state)
    second, _ = vocoder(features[:3, SUBFRAMES_PER_TURN:32], table.select(torch.arange(3)))
    alone = in_turns(vocoder, features[2:3, :32])
    assert torch.equal(torch.cat((first[:1], second[2:3]), 1), alone)
    fresh = in_turns(vocoder, features[1:2, SUBFRAMES_PER_TURN:32])
    assert torch.equal(second[1:2], fresh)


def test_wild_vectors_stay_sound(vocoder: Vocoder) -> None:
    features = torch.randn(2, 16, FEATURES, generator=torch.Generator().manual_seed(1)) * 30
    pcm, state = vocoder(features, vocoder.start(2))
    after, _ = vocoder(steady(1).expand(2, -1, -1), state)
    assert torch.isfinite(state.tail).all() and after.count_nonzero() > 0
    assert pcm.dtype == torch.int16


def test_part_of_a_turn_is_refused(vocoder: Vocoder) -> None:
    with pytest.raises(ValueError, match="15 sub-frames are not whole turns of 16"):
        vocoder(steady(1)[:, :15], vocoder.start(1))
