"""Pictures as patches of 40x40 pixels, one position each.

A patch holds the same place of two pictures, the one before and this one, so that one position can show movement;
a still is doubled. Cutting, padding and normalisation are those of the open Inkling family (transformers 5.23.0,
`image_processing_inkling.py`).

The tower joins the two in its last layer, behind three that normalise: what has changed is hard to learn from
there. A small model is given the difference in place of the picture before (`shows_change`), around a grey of
`STILL`: the first normalisation would otherwise make the camera's noise as large as what moves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model_server.model.config import ModelConfig

RGB = npt.NDArray[np.uint8]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's pictures, per colour, on the 0 .. 1 scale."""
STILL = 0.5
"""The difference of two pixels that are alike, in deviations; noise of +-11 of 255 is 0.09 beside it."""
PADDING = -1.0
"""Colour beyond the picture's edge, on the 0 .. 255 scale."""


def patch_count(config: ModelConfig) -> int:
    """Positions that one picture takes."""
    rows, columns = _grid(*config.picture_size, config)
    return rows * columns


def patches_of(previous: RGB | None, current: RGB, config: ModelConfig) -> Tensor:
    """Pictures uint8 [height, width, 3] to float32 [n, 2, side, side, 3]; `previous` None for a still."""
    now = _cut(current, config)
    before = now if previous is None else _cut(previous, config)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    patches = (torch.stack([before, now], 1) / 255 - mean) / std
    if config.shows_change:
        patches[:, 0] = patches[:, 1] - patches[:, 0] + STILL
    return patches


def _cut(rgb: RGB, config: ModelConfig) -> Tensor:
    """Scaled to the configured size and cut, [n, side, side, 3] on the 0 .. 255 scale."""
    width, height = config.picture_size
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float()
    if picture.shape[1:] != (height, width):
        picture = F.interpolate(picture[None], (height, width), mode="area")[0]
    side = config.patch_side
    rows, columns = _grid(width, height, config)
    picture = F.pad(picture, (0, columns * side - width, 0, rows * side - height), value=PADDING)
    patches: Tensor = picture.unflatten(2, (columns, side)).unflatten(1, (rows, side))
    return patches.permute(1, 3, 2, 4, 0).flatten(0, 1)


def _grid(width: int, height: int, config: ModelConfig) -> tuple[int, int]:
    """Rows and columns of patches. The extra column is there when the patches fill `width` exactly, too."""
    side = config.patch_side
    columns = width // side + 1 if config.extra_column else -(-width // side)
    return -(-height // side), columns
