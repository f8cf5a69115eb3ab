"""dMel against transformers' extractor and processor, whole and streamed, level by level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from media.timebase import TURN_SAMPLES  # noqa: E402
from model_server.model.dmel import PCM, DmelStream, _borders, levels_of, levels_of_samples, mel_filters  # noqa: E402

RATE = 16_000


def sounds() -> dict[str, PCM]:
    rng = np.random.default_rng(5)
    time_s = np.arange(6 * RATE) / RATE
    tone = np.sin(2 * np.pi * (200 * time_s + 300 * time_s**2))
    noise = rng.normal(size=len(time_s))
    fading = noise * 10 ** (-4 * time_s / 6)
    return {
        "noise": (noise * 3000).astype(np.int16),
        "sweep": (tone * 30000).astype(np.int16),
        "fading": (fading * 8000).clip(-32768, 32767).astype(np.int16),
        "silence": np.zeros(RATE, np.int16),
        "full scale": np.where(rng.random(RATE) < 0.5, -32768, 32767).astype(np.int16),
        "a part of a frame": (noise[: RATE // 2 + 123] * 900).astype(np.int16),
    }


@pytest.fixture(scope="module")
def extractor() -> Any:
    reason = "the truth of this test is transformers: pip install 'microturn[dev]'"
    pytest.importorskip("transformers", reason=reason)
    from transformers.models.inkling.feature_extraction_inkling import InklingFeatureExtractor

    return InklingFeatureExtractor()


def levels_of_family(extractor: Any, pcm: PCM) -> Any:
    from transformers.models.inkling.processing_inkling import InklingProcessor

    class Quantiser:
        bin_centers = torch.linspace(-7.0, 2.0, 16, dtype=torch.float64).to(torch.float32)
        dmel_min_value, dmel_max_value = -7.0, 2.0

    features = extractor(pcm.astype(np.float32) / 32768, sampling_rate=RATE, return_tensors="pt")
    return InklingProcessor._extract_dmel_bins(Quantiser(), features["input_features"])[0].numpy()


def streamed(pcm: PCM) -> Any:
    stream = DmelStream(1)
    stream.open(0)
    turns = torch.from_numpy(pcm[: len(pcm) // TURN_SAMPLES * TURN_SAMPLES]).split(TURN_SAMPLES)
    return torch.cat([stream.levels([0], turn[None])[0] for turn in turns]).numpy()


@pytest.mark.parametrize("name", sounds())
def test_levels_are_those_of_the_family(extractor: Any, name: str) -> None:
    pcm = sounds()[name]
    levels = levels_of(pcm)
    assert levels.dtype == np.uint8 and levels.shape == (-(-len(pcm) // 800), 80)
    np.testing.assert_array_equal(levels, levels_of_family(extractor, pcm))


def test_the_filters_are_those_of_the_family(extractor: Any) -> None:
    np.testing.assert_allclose(mel_filters(), extractor.mel_filters.numpy(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", sounds())
def test_streamed_levels_are_those_of_the_whole(name: str) -> None:
    levels = streamed(sounds()[name])
    np.testing.assert_array_equal(levels, levels_of(sounds()[name])[: len(levels)])


def test_calls_in_a_batch_do_not_hear_each_other() -> None:
    alone = [sounds()[name] for name in ("noise", "sweep", "fading")]
    stream = DmelStream(4)
    heard: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for turn in range(12):
        calls = [b for b in range(3) if (turn + b) % 4]  # now and then a call is left out
        start = {b: len(heard[b]) * TURN_SAMPLES for b in calls}
        pcm = torch.stack([torch.from_numpy(alone[b][start[b] : start[b] + TURN_SAMPLES]) for b in calls])
        for b, levels in zip(calls, stream.levels([3 - b for b in calls], pcm), strict=True):
            heard[b].append(levels)
    for b, parts in heard.items():
        np.testing.assert_array_equal(torch.cat(parts).numpy(), levels_of(alone[b])[: 4 * len(parts)])


def test_a_new_call_in_a_row_hears_nothing_of_the_one_before() -> None:
    stream = DmelStream(1)
    loud = torch.from_numpy(sounds()["noise"][:TURN_SAMPLES])[None]
    first = stream.levels([0], loud)
    assert not torch.equal(stream.levels([0], loud), first)
    stream.open(0)
    assert torch.equal(stream.levels([0], loud), first)


def test_silence_is_no_level_that_rounding_could_move() -> None:
    assert levels_of(np.zeros(800, np.int16)).tolist() == [[2] * 80]


def test_a_level_is_that_of_the_nearest_centre_to_the_last_bit() -> None:
    centres = torch.linspace(-7.0, 2.0, 16, dtype=torch.float64).float()
    borders = _borders(centres)
    below, above = (torch.nextafter(borders, torch.tensor(end)) for end in (-9.0, 9.0))
    noise = torch.rand(50_000, generator=torch.Generator().manual_seed(1)) * 9 - 7
    values = torch.cat([below, borders, above, centres, noise])
    nearest = (values[:, None] - centres).abs().argmin(-1)
    assert torch.equal(torch.bucketize(values, borders), nearest)
    assert torch.equal(torch.bucketize(above, borders), torch.arange(1, 16))


def test_frames_of_zeros_have_the_levels_that_are_computed_among_others() -> None:
    sound = torch.randn(1, 3200, generator=torch.Generator().manual_seed(2)) * 0.1
    silence = torch.zeros(1, 3200)
    levels = levels_of_samples(torch.cat([sound, silence]))
    assert torch.equal(levels[:1], levels_of_samples(sound))
    faint = torch.full((1, 3200), 1e-30)  # computed, and no louder
    assert torch.equal(levels[1:], levels_of_samples(faint))
    assert torch.equal(levels[1:], levels_of_samples(silence))
