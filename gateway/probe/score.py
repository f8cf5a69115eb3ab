"""How speech that went through a call sounds: PESQ against what was said. The only place that imports it.

    narrow band (8 kHz): ITU-T P.862 with P.862.1's map to MOS-LQO      wide band (16 kHz): P.862.2

    narrow band (8 kHz): ITU-T P.862 with the map of P.862.1 to MOS-LQO      wide band (16 kHz): P.862.2
of ms, utterance by utterance; the whole clip is found before it, by its correlation with what was heard.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]

NARROW_HZ: Final = 8_000
WIDE_HZ: Final = 16_000
WORST: Final = 1.0
"""Of speech of which nothing came."""


def is_installed() -> bool:
    """Whether package `pesq` is there (the extra `probe`)."""
    return importlib.util.find_spec("pesq") is not None


def pesq_mos(said: Samples, heard: Samples, rate_hz: int) -> float | None:
    """MOS-LQO (1.0 to 4.6) of `heard` against `said`, int16 [n] each, sample by sample the same time. 1 when
    nothing of it came; None when nothing was said. `ValueError` for other rates than 8,000 and 16,000 Hz."""
    if rate_hz not in (NARROW_HZ, WIDE_HZ):
        raise ValueError(f"PESQ at {rate_hz} Hz: expected {NARROW_HZ} or {WIDE_HZ}")
    if not said.any():
        return None
    if not heard.any():
        return WORST
    pesq = importlib.import_module("pesq")
    try:
        return float(pesq.pesq(rate_hz, said, heard, "nb" if rate_hz == NARROW_HZ else "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        return None


def score_in(said: Samples, recording: Samples, rate_hz: int) -> float | None:
    """The same of where `said` is found in a longer `recording`."""
    lag = lag_of(said, recording)
    heard = np.zeros(len(said), np.int16)
    low, high = max(lag, 0), min(lag + len(said), len(recording))
    if high > low:
        heard[low - lag : high - lag] = recording[low:high]
    return pesq_mos(said, heard, rate_hz)


def lag_of(said: Samples, recording: Samples) -> int:
    """Samples by which `said` has to be moved to lie best upon `recording`."""
    length = 1 << (len(said) + len(recording)).bit_length()
    spectrum = np.fft.rfft(recording.astype(np.float64), length)
    product = np.fft.irfft(spectrum * np.conj(np.fft.rfft(said.astype(np.float64), length)), length)
    best = int(np.argmax(product))
    return best if best < length // 2 else best - length
