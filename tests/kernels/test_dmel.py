"""The dMel front end: the model's own levels, and the forms against each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from model_server.model import dmel as plain
from turn_kernels.dmel import DmelTables, dmel
from turn_kernels.dmel.reference import channels_of
from turn_kernels.forms import Form

APART = 1e-4
"""Of a channel's logarithm: sums of 801 products of float32 in another order, and another logarithm."""


def tables(device: torch.device | str = "cpu") -> DmelTables:
    """Of the model."""
    return DmelTables(*(each.to(device) for each in plain._constants()), hop=plain.HOP_SAMPLES)


def small(device: torch.device, samples: int, hop: int, channels: int, levels: int) -> DmelTables:
    generator = torch.Generator().manual_seed(1)
    filters = torch.rand(samples // 2 + 1, channels, generator=generator)
    window, borders = torch.hann_window(samples), torch.linspace(-1.5, 1.0, levels - 1)
    return DmelTables(*(each.to(device) for each in (window, filters, borders)), hop=hop)


def sound(calls: int, samples: int, seed: int = 2) -> Tensor:
    """int16: noise of changing loudness, with silence and full scale in it."""
    rng = np.random.default_rng(seed)
    pcm = rng.standard_normal((calls, samples)) * 10 ** rng.uniform(0, 4.5, (calls, 1))
    pcm[:, : samples // 3] *= rng.uniform(0, 1, (calls, 1))
    pcm[0, samples // 2 :] = 0
    return torch.from_numpy(pcm.clip(-32768, 32767).astype(np.int16))


def test_the_reference_is_the_model_s_front_end() -> None:
    stream, used = plain.DmelStream(3), tables()
    carried = torch.zeros(3, plain.CARRIED_SAMPLES, dtype=torch.int16)
    for turn in range(3):
        pcm = sound(3, 3200, seed=turn)
        levels, carried = dmel(pcm, carried, used)
        assert torch.equal(levels, stream.levels([0, 1, 2], pcm))
        assert torch.equal(carried, pcm[:, -800:])


@pytest.mark.parametrize(
    ("calls", "frames", "sizes"),
    [
        (3, 4, None),
        (1, 1, None),
        (17, 1, (40, 20, 5, 4)),
        (2, 3, (64, 16, 33, 7)),
        (1, 2, (1600, 1600, 17, 2)),
    ],
)
def test_the_fast_form_is_the_reference(
    calls: int,
    frames: int,
    sizes: tuple[int, int, int, int] | None,
    device: torch.device,
    poisoned: Callable[..., Tensor],
) -> None:
    used = tables(device) if sizes is None else small(device, *sizes)
    pcm, carried = sound(calls, frames * used.hop), sound(calls, used.samples - used.hop, seed=3)
    expected, after = dmel(pcm.to(device), carried.to(device), used, Form.REFERENCE)
    found, kept = dmel(poisoned(pcm), poisoned(carried), used, Form.TRITON)
    assert torch.equal(kept, after) and found.shape == expected.shape
    apart = (found.int() - expected.int()).abs()
    assert int(apart.max()) <= 1
    mel = channels_of(torch.cat([carried, pcm], 1).float().to(device) / used.full_scale, used)
    border = (mel[..., None] - used.borders).abs().amin(-1)
    assert bool((border[apart > 0] < APART).all()), "only a channel on a border may fall to either side"
    assert float((apart > 0).float().mean()) < 0.01 and int(expected.max()) > int(expected.min())


def test_turn_by_turn_is_as_in_one_piece(device: torch.device) -> None:
    used, pcm = tables(device), sound(2, 3200).to(device)
    silence = torch.zeros(2, 800, dtype=torch.int16, device=device)
    whole, end = dmel(pcm, silence, used, Form.TRITON)
    parts, carried = [], silence
    for part in pcm.split(800, 1):
        levels, carried = dmel(part.contiguous(), carried, used, Form.TRITON)
        parts.append(levels)
    assert torch.equal(torch.cat(parts, 1), whole) and torch.equal(carried, end)


def test_what_does_not_fit_is_refused() -> None:
    used = tables()
    good = torch.zeros(1, 800, dtype=torch.int16)
    with pytest.raises(ValueError, match="multiple of the hop 800"):
        dmel(good[:, :700].contiguous(), good, used)
    with pytest.raises(ValueError, match="carried is"):
        dmel(good, good[:, 1:].contiguous(), used)
    with pytest.raises(ValueError, match="pcm is"):
        dmel(good.float(), good, used)
    with pytest.raises(ValueError, match="pcm has 0 samples"):
        dmel(good[:, :0].contiguous(), good, used)
    levels, carried = dmel(good[:0], good[:0], used)
    assert levels.shape == (0, 1, 80) and carried.shape == (0, 800)
