"""How speech that came through a bad network sounds: PESQ, digits that a recogniser still hears, delay, recovery.

Knows two time lines of samples at 16 kHz: what was said, and what was handed to the listener and when. PESQ
(ITU-T P.862.2, wideband) aligns parts of an utterance by itself; before it a time line is moved by one lag.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import soxr
from numpy.typing import NDArray

from gateway.caller.analysis import HOP_MS, ReceivedAudio, SentAudio, Windows, find_windows
from gateway.probe import score
from loadtests.netem.speech import FRAME, RATE, Samples
from media.timebase import FRAME_NS, NS_PER_MS, NS_PER_S

PIECE_S: Final = 10.0
"""PESQ was made for 8 to 12 s; the mean of such pieces is told."""
RECOVERED_MS: Final = 25.0
"""Above the floor, the delay is back: a packet's length, within which a receiver's phase is free, and the 4 ms that
Opus looks further ahead once it sends FEC."""
SETTLED_S: Final = 1.0
DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "oh")


@dataclass(frozen=True, slots=True)
class Heard:
    """What a listener was handed: sample i at `start_ns` + i / RATE, without a break."""

    pcm: Samples
    start_ns: int


def windows_of(said: Samples, said_ns: int, heard: Heard) -> Windows:
    """Where each 400 ms of what was said is heard, and how much later: from microphone to hand-over."""
    packets = len(said) // FRAME
    sent = SentAudio(said, RATE, FRAME, said_ns + np.arange(packets) * FRAME_NS, np.ones(packets, np.bool_))
    frames = np.arange(len(heard.pcm) // FRAME, dtype=np.int64)
    received = ReceivedAudio(
        pcm=heard.pcm,
        rate_hz=RATE,
        start=frames * FRAME,
        size=np.full(len(frames), FRAME, np.int64),
        arrival_ns=heard.start_ns + frames * FRAME_NS,
        packets=len(frames),
        lost=0,
        duplicates=0,
        reordered=0,
        other=0,
        jitter_ms=0.0,
        longest_silence_ms=0.0,
    )
    return find_windows(sent, received, heard.start_ns + len(frames) * FRAME_NS)


def between(windows: Windows, from_ns: int, until_ns: int) -> NDArray[np.float64]:
    """Delays in ms of the windows that were said then."""
    inside = (windows.sent_ns >= from_ns) & (windows.sent_ns < until_ns)
    return windows.delay_ms[inside]


def mos(
    said: Samples,
    said_ns: int,
    heard: Heard,
    lag_ms: float,
    from_ns: int,
    until_ns: int,
    *,
    narrow: bool = False,
) -> float | None:
    """Mean PESQ-MOS (LQO) of the pieces said then; None when there is nothing to judge."""
    scores = []
    length_ns = round(PIECE_S * NS_PER_S)
    count = max(1, (until_ns - from_ns) // length_ns)
    for at_ns in range(from_ns, from_ns + count * length_ns, length_ns):
        end_ns = min(at_ns + length_ns, until_ns)
        reference = _part(said, said_ns, at_ns, end_ns)
        degraded = _part(heard.pcm, heard.start_ns, *(t + round(lag_ms * NS_PER_MS) for t in (at_ns, end_ns)))
        found = pesq_mos(reference, degraded, narrow=narrow)
        if found is not None:
            scores.append(found)
    return round(float(np.mean(scores)), 3) if scores else None


def pesq_mos(reference: Samples, degraded: Samples, *, narrow: bool = False) -> float | None:
    """Of one piece, wideband or at 8 kHz; 1 when nothing of it came, None when nothing was said."""
    if narrow:
        reference, degraded = (soxr.resample(pcm, RATE, RATE // 2) for pcm in (reference, degraded))
    return score.pesq_mos(reference, degraded, RATE // 2 if narrow else RATE)


def recovery_ms(windows: Windows, floor_ms: float, over_ns: int, until_ns: int) -> float | None:
    """From the end of an event to behind the last thing said that comes more than `RECOVERED_MS` above the floor,
    before `SETTLED_S` without such; None when it never settles. As exact as windows are apart, 200 ms."""
    times, late = windows.sent_ns, windows.delay_ms > floor_ms + RECOVERED_MS
    for index in np.flatnonzero((times >= over_ns) & (times < until_ns)).tolist():
        settled = (times >= times[index]) & (times < times[index] + SETTLED_S * NS_PER_S)
        if not late[settled].any():
            before = times[late & (times >= over_ns) & (times < times[index])]
            return float(before[-1] - over_ns) / NS_PER_MS + HOP_MS if before.size else 0.0
    return None


def _part(pcm: Samples, start_ns: int, from_ns: int, until_ns: int) -> Samples:
    """Samples of that time; silence where there are none."""
    first = (from_ns - start_ns) * RATE // NS_PER_S
    out = np.zeros((until_ns - from_ns) * RATE // NS_PER_S, np.int16)
    low, high = max(0, first), min(len(pcm), first + len(out))
    if high > low:
        out[low - first : high - first] = pcm[low:high]
    return out


# -- digits


def can_hear_digits() -> bool:
    """Whether pocketsphinx is installed."""
    return importlib.util.find_spec("pocketsphinx") is not None


def digits_in(pcm: Samples) -> list[str]:
    """What pocketsphinx hears with a loop of digits as its grammar."""
    decoder = _recogniser()
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr.replace("oh", "zero").split() if found is not None else []


@functools.cache
def _recogniser() -> Any:
    library = importlib.import_module("pocketsphinx")
    grammar = f"#JSGF V1.0; grammar digits; public <digits> = ({' | '.join(DIGITS)})+;"
    decoder = library.Decoder(samprate=RATE, lm=None, loglevel="FATAL")
    decoder.add_jsgf_string("digits", grammar)
    decoder.activate_search("digits")
    return decoder


def accuracy(said: Sequence[Sequence[str]], heard: Sequence[Sequence[str]]) -> float:
    """Percent: words less substitutions, deletions and insertions, of the words said."""
    wrong = sum(edits(a, b) for a, b in zip(said, heard, strict=True))
    return round(100 * (1 - wrong / sum(map(len, said))), 2)


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance of two lists of words."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]
