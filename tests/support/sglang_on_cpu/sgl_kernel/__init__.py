"""What stands in for the compiled package `sgl_kernel` where there is only a CPU: for tests and development.

SGLang imports many kernels by name and calls hardly any of them on its plain torch path. So every name can be
imported, a call of one that is not here raises, and the one that is called is written out below. On a GPU the
real package is installed, and this folder is not on the path.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NoReturn

import torch

__version__ = "0.0.0+cpu.stand.in"
__path__: list[str] = []  # a submodule is then missing in the plain way


def copy_all_layer_kv_cache_cpu(
    data_ptrs: torch.Tensor, strides: torch.Tensor, tgt_loc: torch.Tensor, src_loc: torch.Tensor
) -> None:
    """In the buffer of each layer copy row `src` to row `tgt`; addresses, and bytes a row. Rows may overlap."""
    sources, targets = src_loc.tolist(), tgt_loc.tolist()
    for address, size in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        rows = [ctypes.string_at(address + source * size, size) for source in sources]
        for target, row in zip(targets, rows, strict=True):
            ctypes.memmove(address + target * size, row, size)


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*arguments: Any, **named: Any) -> NoReturn:
        raise NotImplementedError(
            f"sgl_kernel.{name}: not in the stand-in for CPUs (tests/support/sglang_on_cpu)"
        )

    return missing
