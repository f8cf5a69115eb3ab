"""Overlap-add, against the vocoder's own and bit for bit between forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model_server.model.vocoder import _overlap_add
from turn_kernels.forms import Form
from turn_kernels.overlap_add import overlap_add

SHAPES = [(1, 16, 800, 200), (2, 1, 800, 200), (3, 5, 21, 7), (1, 1, 13, 13), (2, 3, 12, 1)]
"""Calls, sub-frames, samples of a piece, hop."""


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.4


def test_the_reference_is_the_vocoder_s() -> None:
    pieces, tail = made(3, 16, 800, seed=1), made(3, 600, seed=2)
    sound, next_tail = _overlap_add(pieces, tail)
    out, found = overlap_add(pieces, tail)
    assert torch.equal(out, (sound * 32767).round().clamp(-32768, 32767).to(torch.int16))
    assert torch.equal(found, next_tail)


@pytest.mark.parametrize(("calls", "subframes", "samples", "hop"), SHAPES)
def test_the_fast_form_is_the_reference_bit_for_bit(
    calls: int,
    subframes: int,
    samples: int,
    hop: int,
    device: torch.device,
    poisoned: Callable[..., Tensor],
) -> None:
    pieces, tail = made(calls, subframes, samples, seed=3), made(calls, samples - hop, seed=4)
    expected, expected_tail = overlap_add(pieces, tail, form=Form.REFERENCE)
    wide = torch.full((calls, subframes * hop + 6), 0x7F7F, dtype=torch.int16, device=device)
    out, next_tail = overlap_add(poisoned(pieces), poisoned(tail), wide[:, 3:-3], Form.TRITON)
    assert torch.equal(out.cpu(), expected) and torch.equal(next_tail.cpu(), expected_tail)
    assert bool((wide[:, :3] == 0x7F7F).all() and (wide[:, -3:] == 0x7F7F).all())


def test_loud_sound_is_clipped_and_halves_round_to_even(device: torch.device) -> None:
    values = torch.tensor(
        [2.0, -2.0, 1.0, -1.0, 0.5 / 32767, 1.5 / 32767, 2.5 / 32767, -1.5 / 32767, -0.5 / 32767]
    )
    pieces, tail = values[None, None], torch.zeros(1, 0)
    expected, _ = overlap_add(pieces, tail, form=Form.REFERENCE)
    found, _ = overlap_add(pieces, tail, form=Form.TRITON)
    assert torch.equal(found, expected)
    assert expected[0, :4].tolist() == [32767, -32768, 32767, -32767]


def test_turn_by_turn_is_as_in_one_piece(device: torch.device) -> None:
    pieces, silence = made(1, 12, 21, seed=5), torch.zeros(1, 14)
    whole, whole_tail = overlap_add(pieces, silence, form=Form.TRITON)
    parts, tail = [], silence
    for start in range(0, 12, 4):
        part, tail = overlap_add(pieces[:, start : start + 4].contiguous(), tail, form=Form.TRITON)
        parts.append(part)
    assert torch.equal(torch.cat(parts, 1), whole) and torch.equal(tail, whole_tail)


def test_what_does_not_fit_is_refused() -> None:
    pieces = made(2, 3, 12, seed=1)
    with pytest.raises(ValueError, match="multiple of the hop"):
        overlap_add(pieces, made(2, 7, seed=1))
    with pytest.raises(ValueError, match="tail is"):
        overlap_add(pieces, made(1, 8, seed=1))
    with pytest.raises(ValueError, match="out is"):
        overlap_add(pieces, made(2, 8, seed=1), torch.zeros(2, 12))
