"""Whose trunk the network has under SGLang: ours, or that of SGLang's own Inkling, with its pages and kernels.

    own       layers and state are ours, on the CPU, whatever SGLang runs on
    inkling   SGLang's layers, RadixAttention, pages, sliding windows and states of convolutions, on its GPU
    auto      inkling where there is what it needs, else own; the log says why

What it needs was read in SGLang 0.5.23: `models/inkling_common` is triton and CUDA throughout (gate, experts, short
convolutions); `attn.py` takes the back ends fa4 and triton alone, and imports FA4's package, which imports CUTLASS,
for either; the pool must take snapshots of convolution states (`arg_groups/mamba_hook.py`), which a CPU's cannot;
and these states are bfloat16 (`configs/inkling.py`), which GPUs before compute capability 8.0 do not compute in.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import structlog
import torch

OWN, INKLING, AUTO = "own", "inkling", "auto"
CAPABILITY = (8, 0)
"""The least: bfloat16."""
PACKAGES = ("cutlass", "sgl_kernel", "triton")
STAND_IN = "stand.in"
"""Ends the version of what only stands in for the compiled package: see `tests/support/sglang_on_cpu`."""
INSTALL = "pip install 'microturn[sglang]' brings it, in an environment of its own"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Found:
    """Of this machine and environment."""

    gpu: str = ""
    """Empty: none that torch knows."""
    capability: tuple[int, int] = (0, 0)
    missing: tuple[str, ...] = ()
    """Packages."""

    def lacking(self) -> list[str]:
        """What Inkling does without only in vain: what was found, what is expected."""
        lines = []
        if not self.gpu:
            lines.append("found no CUDA device; expected one")
        elif self.capability < CAPABILITY:
            least = ".".join(map(str, CAPABILITY))
            has = ".".join(map(str, self.capability))
            lines.append(
                f"found {self.gpu} of compute capability {has}; expected {least} or later, for bfloat16"
            )
        if self.missing:
            lines.append(f"found no package {' nor '.join(self.missing)}; {INSTALL}")
        return lines


def look() -> Found:
    """What is here."""
    missing = tuple(name for name in PACKAGES if not _is_there(name))
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return Found(missing=missing)
    return Found(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), missing)


def choose(asked: str, found: Found | None = None) -> str:
    """`own` or `inkling`; `ValueError` where Inkling is asked for by name and cannot run."""
    if asked not in (AUTO, OWN, INKLING):
        raise ValueError(f"trunk = {asked!r}: expected {AUTO}, {OWN} or {INKLING}")
    if asked == OWN:
        return OWN
    found = found or look()
    lacking = found.lacking()
    if asked == INKLING and lacking:
        raise ValueError(
            f"trunk = {INKLING!r}: SGLang's Inkling does not run here: {'; '.join(lacking)}. Take --trunk {OWN}, "
            f"or {AUTO}, which takes {INKLING} where it can"
        )
    chosen = OWN if lacking else INKLING
    log.info("trunk under SGLang", trunk=chosen, why="; ".join(lacking) or f"{found.gpu} has what it needs")
    return chosen


def _is_there(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    if spec is None or name != "sgl_kernel":
        return spec is not None
    import sgl_kernel

    return not str(sgl_kernel.__version__).endswith(STAND_IN)
