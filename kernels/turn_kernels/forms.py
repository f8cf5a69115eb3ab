"""Which form of an operation runs. Decided by the device or by name, never by what happens to fail."""

from __future__ import annotations

import enum
import importlib.util
import sys

import torch
from torch import Tensor


class Form(enum.StrEnum):
    """Of an operation."""

    REFERENCE = "reference"
    """Plain torch."""
    TRITON = "triton"
    PEER = "peer"
    """Collectives: every rank reads the others' memory."""
    MULTIMEM = "multimem"
    """Collectives: the switch adds (NVLS)."""


def interpreted() -> bool:
    """Whether triton was imported to interpret kernels on the CPU."""
    knobs = sys.modules.get("triton.knobs")
    return knobs is not None and bool(knobs.runtime.interpret)


def form_for(device: torch.device) -> Form:
    """Triton on GPUs, the reference on CPUs; `RuntimeError` where a GPU's form is missing."""
    if device.type == "cpu":
        return Form.REFERENCE
    require_triton()
    return Form.TRITON


def require_triton() -> None:
    """`RuntimeError` says what to install."""
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError(
            "triton is not installed and the kernels need it: pip install 'microturn[kernels]', "
            "or ask for the slow form by name (form='reference')"
        )


def expect(tensor: Tensor, name: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> None:
    """`ValueError` unless it is contiguous, of that dtype and shape (None: any length)."""
    fits = len(tensor.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        raise ValueError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}: expected {dtype} {shape}, None being any length"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: expected a contiguous tensor")
