"""Real networks as they were recorded: what a cellular link carried (mahimahi) and which packets a call lost.

The files lie beside the checkout (`../shared/data/net`); `available` says whether they do.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

NET: Final = Path(__file__).parents[3] / "shared/data/net"  # beside the checkout
OPPORTUNITY_BYTES: Final = 1500
"""What a mahimahi link carries at each of its time stamps."""
LOSS_PERIOD_MS: Final = 20
"""Of the packets of the PLC challenge."""


def available() -> bool:
    """Whether the recordings are there."""
    return NET.is_dir()


def rate_names() -> list[str]:
    """Cellular recordings, such as `ATT-LTE-driving-2016.up`; none when the data is absent."""
    return sorted(path.name for path in (NET / "mahimahi").glob("*.*"))


def loss_names() -> list[str]:
    """Recordings of lost packets, such as `1214`; none when the data is absent."""
    return sorted(path.name.partition("_")[0] for path in (NET / "plc_challenge").glob("*_is_lost.txt"))


@functools.cache
def opportunities_ms(name: str) -> NDArray[np.int64]:
    """Ascending ms at which one packet of `OPPORTUNITY_BYTES` may pass, [n]. Raises ValueError without it."""
    stamps = _read(NET / "mahimahi" / name, rate_names())
    if stamps.size == 0 or (np.diff(stamps) < 0).any() or stamps[-1] <= 0:
        raise ValueError(f"{name} is no trace of ascending milliseconds")
    return stamps


@functools.cache
def losses(name: str) -> NDArray[np.bool_]:
    """Which packet of each `LOSS_PERIOD_MS` was lost, [n]. Raises ValueError without the recording."""
    lost: NDArray[np.bool_] = _read(NET / "plc_challenge" / f"{name}_is_lost.txt", loss_names()) != 0
    return lost


def _read(path: Path, known: list[str]) -> NDArray[np.int64]:
    """One integer a line."""
    try:
        return np.array(path.read_text().split(), dtype=np.int64)
    except (OSError, ValueError) as error:
        choice = ", ".join(known) or f"none, since {NET} is absent"
        raise ValueError(f"no network trace {path.name} ({error}): choose from {choice}") from None
