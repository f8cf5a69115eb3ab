"""The device that a setting names, and whether it has what a model needs: asked at start."""

from __future__ import annotations

import torch

from model_server.model.config import ModelConfig
from model_server.model.device.state import session_bytes

LEAST_CAPABILITY = (8, 0)
"""CUDA's, of GPUs that multiply in bfloat16."""
SPARE_SHARE = 0.1
"""Of a GPU's memory: for what passes need in between, graphs, and what the driver keeps."""
GB = 1e9


def device_of(name: str) -> torch.device:
    """`cpu`, `cuda` (the first) or `cuda:N`; `ValueError` says what was found where there is no such device."""
    device = torch.device(name)
    if device.type != "cuda":
        return device
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = device.index or 0
    if number >= found:
        there = f"{found} CUDA device{'s' * (found > 1)}" if found else "no CUDA device"
        expected = (
            f"cuda:0 to cuda:{found - 1}" if found else "an NVIDIA GPU, its driver, and torch with CUDA"
        )
        raise ValueError(
            f"device = {name!r}: found {there} (torch {torch.__version__}); expected {expected}; name one that is "
            "there, or take --device cpu"
        )
    return torch.device("cuda", number)


def dtype_of_weights(device: torch.device, products: torch.dtype | None) -> torch.dtype:
    """What was asked for; else bfloat16 on a GPU, float32 on a CPU. `ValueError` for a GPU without bfloat16."""
    dtype = products or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if device.type == "cuda" and dtype is torch.bfloat16:
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            raise ValueError(
                f"device = {str(device)!r}: found {torch.cuda.get_device_name(device)}, compute capability "
                f"{'.'.join(map(str, capability))}; expected {'.'.join(map(str, LEAST_CAPABILITY))} or newer, for "
                "bfloat16; take --products float32, or --device cpu"
            )
    return dtype


def check_room(
    device: torch.device,
    config: ModelConfig,
    weights: int,
    sessions: int,
    most_at_once: int,
    dtype: torch.dtype,
) -> None:
    """`ValueError` where a GPU has no room for so many numbers of weights, and for the sessions beside them."""
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    check_fits(
        f"device = {str(device)!r}: {torch.cuda.get_device_name(device)}",
        free - SPARE_SHARE * total,
        weights * dtype.itemsize,
        sessions,
        session_bytes(config, most_at_once, dtype.itemsize),
    )


def check_fits(where: str, free: float, weight_bytes: int, sessions: int, session: int) -> None:
    """`ValueError`, with how many sessions would fit, if any."""
    fits = max(0, int((free - weight_bytes) // session))
    if sessions <= fits:
        return
    instead = f"set --slots to {fits} or fewer" if fits else "take a smaller checkpoint, or --device cpu"
    needed = weight_bytes + sessions * session
    raise ValueError(
        f"{where} has {free / GB:.2f} GB for us; expected {needed / GB:.2f} GB: weights of "
        f"{weight_bytes / GB:.2f} GB and {sessions} slots of {session / 1e6:.2f} MB; {instead}"
    )
