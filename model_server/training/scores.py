"""Figures of evaluation, each from what a caller heard and nothing else, and what they mean.

accuracy            1 - (words changed, left out and put in) / words that ought to be said: word error rate
latency             first sound of the answer - end of the caller's last word, of calls that were answered after it;
                    negative ones are 0: Full-Duplex-Bench V1, smooth turn taking (arXiv 2503.04721)
take-over           share of calls in which the model says a word inside the string, its pauses included, before the
                    last word begins: the same, pause handling, but stricter (there up to three words within a
                    second are forgiven)
early               share of calls in which its first word comes while the caller's last one still sounds: it was
                    understood before its end, and the answer's latency is 0
stop latency        last sound before 0.6 s of silence - end of the word stop, where the voice was speaking
false stop          share of disturbed calls in which the string was broken off
interruption        first sound of `no` - end of the wrong digit; right: `no` and the right digit
false interruption  share of calls in which `no` is said before any digit was wrong
on time             share of due words that are said within +-0.5 s; besides: words that were not due are taken off.
                    As TimeSpeak (Thinking Machines 2026): the right content in the right window
within one          share of calls whose last number is the true one or a neighbour: RepCount-A, off by one
passed on           share of questions that are delegated within 2 s; answered: the result said within 3 s of coming
understood          share of the words that were said which pocketsphinx takes for them

What was said, and when, is read off the sound (`reading.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from media.timebase import TURN_MS
from model_server.training.reading import Spoken, onset_s, sounding
from model_server.training.rehearsal import Heard

Figures = dict[str, float | int | None]

QUIET_S = 0.6
"""A voice that says one word after another is never silent for so long."""
ON_TIME_S = 0.5
INSIDE_S = 0.02
"""A word that begins so near to the end of the string is after it."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A call, and what was read off its sound."""

    heard: Heard
    spoken: tuple[Spoken, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(spoken.word for spoken in self.spoken)

    def onset_s(self, spoken: Spoken) -> float:
        """See `reading.onset_s`."""
        return onset_s(self.heard.pcm, spoken)


def errors(said: Sequence[str], wanted: Sequence[str]) -> int:
    """Least number of words to change, leave out and put in (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for at, word in enumerate(said, 1):
        before, row[0] = row[0], at
        for to, other in enumerate(wanted, 1):
            before, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, before + (word != other))
    return row[-1]


def accuracy(calls: Sequence[Read]) -> float | None:
    """Of the words that are expected; not below 0 for a call."""
    wanted = [call.heard.case.expected for call in calls]
    wrong = [min(len(want), errors(call.words, want)) for call, want in zip(calls, wanted, strict=True)]
    return share(sum(map(len, wanted)) - sum(wrong), sum(map(len, wanted)))


def latencies_s(calls: Sequence[Read]) -> list[float]:
    """Of calls that were answered, and not taken over."""
    found = []
    for call in calls:
        last = call.heard.case.words[-1]
        after = [spoken for spoken in call.spoken if spoken.start_s >= last.start_s]
        if after and not took_over(call):
            found.append(max(0.0, call.onset_s(after[0]) - last.end_s))
    return found


def took_over(call: Read) -> bool:
    """A word before the caller's last one."""
    words = call.heard.case.words
    return any(words[0].start_s < spoken.start_s < words[-1].start_s for spoken in call.spoken)


def came_early(call: Read) -> bool:
    """The first word over the caller's last one."""
    last = call.heard.case.words[-1]
    first_s = call.spoken[0].start_s if call.spoken else np.inf
    return last.start_s <= first_s < last.end_s - INSIDE_S


def read_back(calls: Sequence[Read]) -> Figures:
    """Strings of digits."""
    seconds = latencies_s(calls)
    return {
        "accuracy": accuracy(calls),
        "exact": share(sum(call.words == call.heard.case.expected for call in calls), len(calls)),
        "take_over": share(sum(map(took_over, calls)), len(calls)),
        "early": share(sum(map(came_early, calls)), len(calls)),
        "answered": share(len(seconds), len(calls)),
        "latency_p50_s": quantile(seconds, 0.5),
        "latency_mean_s": round(float(np.mean(seconds)), 3) if seconds else None,
        "latency_p90_s": quantile(seconds, 0.9),
    }


def uncounted(calls: Sequence[Read]) -> Figures:
    """The same, and for each rhythm its point of the curve of latency against take-over."""
    figures = read_back(calls)
    for pause in sorted({call.heard.case.name.split(",")[0] for call in calls}):
        of = [call for call in calls if call.heard.case.name.startswith(pause)]
        name = pause.split()[-2]
        figures[f"latency_p50_s_at_{name}"] = quantile(latencies_s(of), 0.5)
        figures[f"take_over_at_{name}"] = share(sum(map(took_over, of)), len(of))
    return figures


def stops(calls: Sequence[Read]) -> Figures:
    """After the word stop."""
    speaking = [call for call in calls if _speaks_around(call, call.heard.case.words[-1].start_s)]
    seconds = [
        max(0.0, _last_sound_s(call, call.heard.case.event_s) - call.heard.case.event_s) for call in speaking
    ]
    return {
        "speaking": share(len(speaking), len(calls)),
        "stop_latency_p50_s": quantile(seconds, 0.5),
        "stop_latency_p90_s": quantile(seconds, 0.9),
        "silent_within_400_ms": share(sum(value <= 0.4 for value in seconds), len(seconds)),
    }


def disturbed(calls: Sequence[Read]) -> Figures:
    """Coughs, noise, other people; calls in which the voice was not speaking yet, or any more, say nothing."""
    speaking = [call for call in calls if _speaks_around(call, call.heard.case.event_s)]
    broken = [call for call in speaking if len(call.words) < len(call.heard.case.expected) - 1]
    return {
        "speaking": share(len(speaking), len(calls)),
        "false_stops": share(len(broken), len(speaking)),
        "accuracy": accuracy(calls),
    }


def corrections(calls: Sequence[Read]) -> Figures:
    """`no` and the right digit, at once, and only where a digit was wrong."""
    wrong = [call for call in calls if call.heard.case.expected[0] == "no"]
    seconds, right, false = [], 0, 0
    for call in calls:
        noes = [spoken for spoken in call.spoken if spoken.word == "no"]
        event_s = call.heard.case.event_s
        false += any(spoken.start_s < event_s - 0.3 for spoken in noes)
        after = [spoken for spoken in noes if spoken.start_s >= event_s - 0.3]
        if after:
            seconds.append(call.onset_s(after[0]) - event_s)
            place = call.spoken.index(after[0])
            right += call.words[place : place + 2] == call.heard.case.expected
    return {
        "interrupted": share(len(seconds), len(wrong)),
        "right": share(right, len(wrong)),
        "interruption_p50_s": quantile(seconds, 0.5),
        "interruption_p90_s": quantile(seconds, 0.9),
        "false_interruptions": share(false, len(calls)),
    }


def periods(calls: Sequence[Read]) -> Figures:
    """N, every N seconds from the end of the request."""
    due = hits = besides = confirmed = 0
    for call in calls:
        case = call.heard.case
        times = [case.event_s + case.seconds * k for k in (1, 2, 3)]
        left = [spoken for spoken in call.spoken if spoken.word != "okay"]
        confirmed += len(left) < len(call.spoken)
        for time_s in times:
            due += 1
            match = next(
                (
                    s
                    for s in left
                    if s.word == str(case.seconds) and abs(call.onset_s(s) - time_s) <= ON_TIME_S
                ),
                None,
            )
            if match is not None:
                hits += 1
                left.remove(match)
        besides += len(left)
    return {
        "on_time": share(hits, due),
        "on_time_less_besides": share(max(0, hits - besides), due),
        "confirmed": share(confirmed, len(calls)),
    }


def interpretations(calls: Sequence[Read]) -> Figures:
    """Spanish words while the caller goes on."""
    seconds = []
    for call in calls:
        case = call.heard.case
        if call.words == case.expected:
            seconds += [
                call.onset_s(spoken) - word.end_s
                for spoken, word in zip(call.spoken, case.words, strict=True)
            ]
    overlapping = sum(
        any(s.start_s < call.heard.case.words[-1].start_s for s in call.spoken) for call in calls
    )
    return {
        "accuracy": accuracy(calls),
        "lag_p50_s": quantile(seconds, 0.5),
        "spoke_while_the_caller_did": share(overlapping, len(calls)),
    }


def delegations(calls: Sequence[Read]) -> Figures:
    """Questions passed on (an action: seen only where the engine is at hand), and answers said."""
    passed = answered = told = 0
    for call in calls:
        case = call.heard.case
        turn_s = TURN_MS / 1000
        passed += any(
            action.startswith("delegate") and 0 <= (turn + 1) * turn_s - case.event_s <= 2.0
            for turn, action in call.heard.actions
        )
        told += "let-me-check" in call.words
        answer_s = min(case.typed, default=0) * turn_s
        answered += any(
            s.word == case.expected[-1] and answer_s < s.start_s < answer_s + 3.0 for s in call.spoken
        )
    return {
        "passed_on": share(passed, len(calls)) if any(call.heard.actions for call in calls) else None,
        "let_me_check": share(told, len(calls)),
        "answered": share(answered, len(calls)),
    }


def counts(calls: Sequence[Read]) -> Figures:
    """The last number that is said, against the true one."""
    errors_of = []
    for call in calls:
        last = next((int(word) for word in reversed(call.words) if word.isdigit()), 0)
        errors_of.append(abs(last - len(call.heard.case.expected)))
    return {
        "within_one": share(sum(error <= 1 for error in errors_of), len(calls)),
        "mean_error": round(float(np.mean(errors_of)), 2) if errors_of else None,
        "accuracy": accuracy(calls),
    }


SCORES: Mapping[str, Callable[[Sequence[Read]], Figures]] = {
    "connected": read_back,
    "isolated": read_back,
    "paused": read_back,
    "uncounted": uncounted,
    "stop": stops,
    "disturbed": disturbed,
    "correct": corrections,
    "every": periods,
    "interpret": interpretations,
    "delegate": delegations,
    "count": counts,
}


def share(part: int, whole: int) -> float | None:
    """To a thousandth; None of nothing."""
    return round(part / whole, 3) if whole else None


def quantile(values: Sequence[float], at: float) -> float | None:
    """To a millisecond; None of nothing."""
    return round(float(np.quantile(np.array(values), at)), 3) if len(values) else None


def _speaks_around(call: Read, at_s: float) -> bool:
    """There is sound shortly before, words of the string have been said, and not all of them."""
    loud = sounding(call.heard.pcm)
    before = loud[max(0, round((at_s - QUIET_S) * 100)) : round(at_s * 100)]
    said = sum(spoken.start_s < at_s for spoken in call.spoken)
    return bool(before.any()) and 0 < said < len(call.heard.case.expected)


def _last_sound_s(call: Read, from_s: float) -> float:
    """The end of the sound that goes on at `from_s`: what is followed by 0.6 s of silence."""
    loud = sounding(call.heard.pcm)
    start = max(0, round((from_s - QUIET_S) * 100))
    places = np.flatnonzero(loud[start:]) + start
    if not len(places):
        return from_s
    gaps = np.flatnonzero(np.diff(places) > QUIET_S * 100)
    last = places[gaps[0]] if len(gaps) else places[-1]
    return (int(last) + 1) / 100
