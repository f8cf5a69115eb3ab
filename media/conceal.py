"""What is put where sound is missing, and how sound is taken out where there is too much of it.

`extend` repeats the last pitch period and fades it out, as ITU-T G.711 Appendix I does; `shorten` takes a
stretch out at the place where its two edges resemble each other most (silence first, since there they are
equal) and cross-fades them, as WSOLA does (Verhelst and Roelands, ICASSP 1993); `stretch` says one twice.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from media.chunk import PCM

FADE_MS = 60
"""After so long nothing true can be said about the sound: G.711 Appendix I is silent then, too."""
_PITCH_MIN_MS, _PITCH_MAX_MS, _MATCH_MS, _CROSS_MS, _STEP_MS = 2.5, 15.0, 20, 5, 1


def extend(history: PCM, count: int, rate_hz: int, already: int = 0) -> PCM:
    """`count` samples that go on from `history` (int16, its last 35 ms are used), `already` concealed before.

    Returns int16 [count]; silence when there is no history or the fade is over.
    """
    fade = rate_hz * FADE_MS // 1000
    low, high = int(rate_hz * _PITCH_MIN_MS / 1000), int(rate_hz * _PITCH_MAX_MS / 1000)
    match = rate_hz * _MATCH_MS // 1000
    if already >= fade or len(history) < match + high:
        return np.zeros(count, np.int16)
    recent = history[-(match + high) :].astype(np.float32)
    windows = sliding_window_view(recent, match)[: high - low + 1]  # lag high first, lag low last
    power = np.sqrt(np.einsum("ij,ij->i", windows, windows)) + 1.0
    lag = high - int(np.argmax(windows @ recent[-match:] / power))
    repeated = np.resize(recent[-lag:], count)
    gain = np.clip(1.0 - (already + np.arange(count)) / fade, 0.0, 1.0)
    return (repeated * gain).astype(np.int16)


def shorten(pcm: PCM, count: int, rate_hz: int) -> PCM:
    """int16 [n] -> int16 [n - count], the cut placed where it is heard least; n must exceed count + 5 ms."""
    cross = rate_hz * _CROSS_MS // 1000
    last = len(pcm) - count - cross
    assert count >= 0 and last > 0, (len(pcm), count)
    if count == 0:
        return pcm
    start = _likest(pcm, count, cross, rate_hz)
    seam = _seam(pcm[start : start + cross], pcm[start + count : start + count + cross])
    return np.concatenate((pcm[:start], seam, pcm[start + count + cross :]))


def stretch(pcm: PCM, count: int, rate_hz: int) -> PCM:
    """int16 [n] -> int16 [n + count], `count` samples said twice where it is heard least; n as for `shorten`."""
    cross = rate_hz * _CROSS_MS // 1000
    assert count >= 0 and len(pcm) - count - cross > 0, (len(pcm), count)
    if count == 0:
        return pcm
    start = _likest(pcm, count, cross, rate_hz)
    seam = _seam(pcm[start + count : start + count + cross], pcm[start : start + cross])
    return np.concatenate((pcm[: start + count], seam, pcm[start + cross :]))


def _likest(pcm: PCM, count: int, cross: int, rate_hz: int) -> int:
    """Where the `cross` samples resemble most those that are `count` later."""
    samples = pcm.astype(np.float32)
    starts = np.arange(0, len(pcm) - count - cross, max(1, rate_hz * _STEP_MS // 1000))
    windows = sliding_window_view(samples, cross)
    apart = windows[starts] - windows[starts + count]
    return int(starts[np.argmin(np.einsum("ij,ij->i", apart, apart))])


def _seam(before: PCM, after: PCM) -> PCM:
    """From one to the other, as long as both are."""
    ramp = np.linspace(0.0, 1.0, len(before), dtype=np.float32)
    return (before * (1 - ramp) + after * ramp).astype(np.int16)
