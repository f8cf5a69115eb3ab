"""The figures of Full-Duplex-Bench that need no judge, by the definitions that its scripts carry out.

turn taken      words that last 1 s or longer from the first's beginning to the last's end, or more than 3 of them;
                TOR is its share (version 1: `eval_pause_handling.py`, `eval_smooth_turn_taking.py`,
                `eval_user_interruption.py`)
latency         first word - end of the user's turn or interruption, of turns that were taken; negative ones are 0
backchannel     a stretch of speech of at most 3 s; one of 1 s or longer, or of more than 2 words, takes the turn,
                as longer speech does (version 1: `eval_backchannel.py`; the last stretch of a sample decides)
frequency       backchannels a second of the recording
JSD             Jensen-Shannon distance (base e, the root of the divergence) of the windows of 0.2 s that
                backchannels cover from people's distribution, stretched to the same length; 1 where there are none
stop latency    how long both speak, each time; pauses of up to 0.6 s of the user's speech and 0.5 s of the model's
                are none (version 1.5: `get_timing.py`)
response        end of the user's speech to the next beginning of the model's, each time (the same)

Sources: Lin et al. 2025, arXiv 2503.04721 (version 1) and 2507.23159 (1.5); Lin et al. 2026, arXiv 2604.04847 (3);
where the papers leave something open the scripts of DanielLin94144/Full-Duplex-Bench decide. Knows words and
stretches of speech, no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.fdb.layout import Word

TURN_S, TURN_WORDS = 1.0, 3
SPEAKING_S, BACKCHANNEL_S, BACKCHANNEL_WORDS = 3.0, 1.0, 2
WINDOW_S, EPSILON = 0.2, 1e-10
USER_GAP_S, MODEL_GAP_S = 0.6, 0.5

Stretch = tuple[float, float]
"""From, to: seconds of speech."""
Real = NDArray[np.float64]


def took_turn(words: Sequence[Word]) -> bool:
    """Whether what was said is more than an acknowledgement."""
    if not words:
        return False
    last = words[-1]
    lasted_s = (last.start_s if last.end_s is None else last.end_s) - words[0].start_s
    return lasted_s >= TURN_S or len(words) > TURN_WORDS


def latency_s(words: Sequence[Word], ended_s: float) -> float | None:
    """From the end of the user's turn to the first word, not below 0; None where the turn was not taken."""
    return max(0.0, words[0].start_s - ended_s) if took_turn(words) else None


@dataclass(frozen=True, slots=True)
class Backchannels:
    """Of one sample."""

    took_turn: bool
    stretches: tuple[Stretch, ...]
    frequency: float
    jsd: float | None
    """None: there were some, and nobody said where people's are."""


def backchannels(
    speech: Sequence[Stretch], words: Sequence[Word], seconds: float, people: Sequence[float] | None
) -> Backchannels:
    """Of the model's stretches of speech in a recording of so many seconds.

    `people`: their distribution over the time of the sample, as in `icc_gt_distribution.json`.
    """
    taken, short = False, []
    for start_s, end_s in speech:
        if end_s - start_s > SPEAKING_S:
            taken = True
            break
        said = sum(_overlaps(word, start_s, end_s) for word in words)
        taken = end_s - start_s >= BACKCHANNEL_S or said > BACKCHANNEL_WORDS
        short.append((start_s, end_s))
    if not short:
        return Backchannels(taken, (), 0.0, 1.0)
    jsd = None if people is None else distance(_covered(short, seconds), np.array(people, np.float64))
    return Backchannels(taken, tuple(short), len(short) / seconds, jsd)


def distance(said: Real, people: Real) -> float:
    """Of two distributions over the same time, in as many windows as they have."""
    spread = np.linspace(0.0, 1.0, len(said)), np.linspace(0.0, 1.0, len(people))
    stretched = np.interp(*spread, people)
    p, q = said / said.sum(), stretched / stretched.sum()
    middle = (p + q) / 2
    return float(np.sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2)))


def overlaps(user: Sequence[Stretch], model: Sequence[Stretch]) -> list[Stretch]:
    """Where both speak, in the order of the ends; of two with the same end the shorter one."""
    shortest: dict[int, Stretch] = {}
    for a_s, b_s in user:
        for c_s, d_s in model:
            both = max(a_s, c_s), min(b_s, d_s)
            if both[1] > both[0]:
                _keep_later(shortest, both)
    return _by_end(shortest)


def response_gaps(user: Sequence[Stretch], model: Sequence[Stretch]) -> list[Stretch]:
    """From each end of the user's speech to the next beginning of the model's; one that begins after several of the
    user's ends answers the last."""
    shortest: dict[int, Stretch] = {}
    for _, end_s in user:
        after = [start_s for start_s, _ in model if start_s > end_s]
        if after:
            _keep_later(shortest, (end_s, after[0]))
    return _by_end(shortest)


def merged(speech: Sequence[Stretch], gap_s: float) -> list[Stretch]:
    """The same without pauses of at most so long."""
    out: list[Stretch] = []
    for start_s, end_s in sorted(speech):
        if out and start_s - out[-1][1] <= gap_s:
            out[-1] = out[-1][0], max(out[-1][1], end_s)
        else:
            out.append((start_s, end_s))
    return out


def stopped_s(model: Sequence[Stretch], event_s: float) -> float | None:
    """How long the model speaks on after the beginning of an overlap; None where it did not speak then."""
    return next((end_s - event_s for start_s, end_s in model if start_s <= event_s < end_s), None)


def _overlaps(word: Word, start_s: float, end_s: float) -> bool:
    """A word whose end nobody knows is passed over, as theirs passes over it."""
    if word.end_s is None:
        return False
    inside = word.start_s >= start_s and word.end_s <= end_s
    return (
        inside
        or (word.start_s <= end_s and word.end_s > end_s)
        or (word.start_s <= start_s and word.end_s > start_s)
    )


def _covered(stretches: Sequence[Stretch], seconds: float) -> Real:
    """How many of them each window of the recording has part in."""
    counts = np.full(int(seconds / WINDOW_S) + 1, EPSILON)
    for start_s, end_s in stretches:
        counts[int(start_s / WINDOW_S) : int(end_s / WINDOW_S) + 1] += 1
    return counts


def _divergence(p: Real, q: Real) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def _keep_later(found: dict[int, Stretch], stretch: Stretch) -> None:
    """By their ends, to a millisecond."""
    at = round(stretch[1] * 1000)
    if at not in found or stretch[0] > found[at][0]:
        found[at] = stretch


def _by_end(found: dict[int, Stretch]) -> list[Stretch]:
    return sorted(((round(a, 3), round(b, 3)) for a, b in found.values()), key=lambda one: one[1])
