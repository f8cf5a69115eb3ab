"""What callers heard of a fault that came and went, and whether that is what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.caller.calls import CallLog
from gateway.caller.report import CallReport, report_call
from loadtests.faults.calls import GAP_TOLERANCE_MS, MS, SILENCE_MS, S, lag_ms, loudness
from loadtests.faults.outcome import Outcome

FRAME_MS = 20
BACK_S = 2.0
"""After its end nothing is heard of a fault (DESIGN section 6)."""
UNDER_WAY_S = 1.0
"""What was said so long before may be on its way through what stops."""
PLAYED_OUT_S = 0.5
"""A turn in playout, the jitter buffer, and 40 ms."""
LAG_TOLERANCE_MS = 60.0
COMFORT_RMS = 100.0
"""The comfort sound has 16; the quietest stretch of a numbered tone has over 1,000."""

Times = NDArray[np.int64]
Span = tuple[int, int]
"""When a fault began and ended, monotonic ns."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What callers may hear of it at most."""

    back_s: float = BACK_S
    """Nothing is missing of what was said so long after its end."""
    packets: bool = True
    """They come all the while."""
    comfort: bool = True
    """Where there is no speech, comfort sound alone."""
    ended: int = 0
    """Calls that end by it, which is as many as have to."""
    lag: bool = True
    """The delay afterwards is that of before."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Of one call."""

    gap_ms: float
    """Of what was said, all that did not come back."""
    elsewhere_ms: float
    """Of that, what was said when no fault was near."""
    back_s: float
    """The last of it was said so long after the end of a fault; 0 without any."""
    silence_ms: float
    """The longest time without a packet."""
    lag_change_ms: float | None
    """Median delay after the last fault less that before the first; None where nothing is heard again."""
    loudest_rms: float
    """In the gap."""
    ended_by: str


def judge_heard(
    outcome: Outcome, logs: Sequence[CallLog], faults: Sequence[Span], promise: Promise | None = None
) -> list[Heard]:
    """Figures of calls that a fault may touch, and what of the promise is broken."""
    promise = promise or Promise()
    reports = [report_call(log) for log in logs]
    answered = [
        (log, report) for log, report in zip(logs, reports, strict=True) if report.windows is not None
    ]
    outcome.expect(len(answered) == len(logs), f"{len(logs) - len(answered)} calls were not answered")
    heard = [hear(log, report, faults, promise.back_s) for log, report in answered]
    ended = [one for one in heard if one.ended_by != "us"]
    alive = [one for one in heard if one.ended_by == "us"]
    lags = [abs(one.lag_change_ms) for one in alive if one.lag_change_ms is not None]
    outcome.figures |= {
        "calls": len(logs),
        "ended_calls": len(ended),
        "gap_ms_worst": max((one.gap_ms for one in heard), default=0.0),
        "elsewhere_ms_worst": max((one.elsewhere_ms for one in alive), default=0.0),
        "back_s_worst": round(max((one.back_s for one in alive), default=0.0), 2),
        "silence_ms_worst": round(max((one.silence_ms for one in alive), default=0.0), 1),
        "lag_change_ms_worst": round(max(lags, default=0.0), 1),
        "loudest_in_gap_rms": round(max((one.loudest_rms for one in alive), default=0.0), 1),
    }
    _expect(outcome, ended, alive, promise)
    return heard


def _expect(outcome: Outcome, ended: Sequence[Heard], alive: Sequence[Heard], promise: Promise) -> None:
    outcome.expect(
        len(ended) == promise.ended, f"{len(ended)} calls were ended, but {promise.ended} should have been"
    )
    silent = [one for one in alive if one.lag_change_ms is None]
    outcome.expect(not silent, f"{len(silent)} calls were not heard again")
    late = sorted(round(one.back_s, 2) for one in alive if one.back_s > promise.back_s)
    outcome.expect(not late, f"speech was missing up to {late[-3:]} s after the fault was over")
    elsewhere = sorted(one.elsewhere_ms for one in alive if one.elsewhere_ms > GAP_TOLERANCE_MS)
    outcome.expect(not elsewhere, f"{elsewhere[-3:]} ms of gaps when no fault was near")
    if promise.packets:
        silences = sorted(round(one.silence_ms) for one in alive if one.silence_ms >= SILENCE_MS)
        outcome.expect(not silences, f"{silences[-3:]} ms without a packet")
    if promise.comfort:
        loud = sorted(round(one.loudest_rms) for one in alive if one.loudest_rms >= COMFORT_RMS)
        outcome.expect(not loud, f"something else than comfort sound in the gap: RMS {loud[-3:]}")
    if promise.lag:
        lags = sorted(
            round(one.lag_change_ms)
            for one in alive
            if one.lag_change_ms is not None and abs(one.lag_change_ms) > LAG_TOLERANCE_MS
        )
        outcome.expect(not lags, f"the delay afterwards is another one, by {lags[-3:]} ms")


def hear(log: CallLog, report: CallReport, faults: Sequence[Span], back_s: float = BACK_S) -> Heard:
    """One call, answered, through these faults."""
    assert report.windows is not None
    gaps = report.windows.gap_starts_ns
    near = np.zeros(len(gaps), np.bool_)
    after_s = loudest = 0.0
    for number, (begin_ns, end_ns) in enumerate(faults):
        until_ns = faults[number + 1][0] if number + 1 < len(faults) else np.iinfo(np.int64).max
        until_ns -= round(UNDER_WAY_S * S)
        within = (gaps >= begin_ns - UNDER_WAY_S * S) & (gaps < end_ns)
        behind = _behind(gaps[(gaps >= end_ns) & (gaps < until_ns)], end_ns, back_s)
        near |= within | np.isin(gaps, behind)
        if behind.size:
            after_s = max(after_s, (int(behind[-1]) + FRAME_MS * MS - end_ns) / S)
        if within.size and within.any():
            loudest = max(loudest, loudness(log, begin_ns + round(PLAYED_OUT_S * S), end_ns))
    before = lag_ms(report, 0, faults[0][0] - round(UNDER_WAY_S * S))
    after = lag_ms(report, faults[-1][1] + round(back_s * S), np.iinfo(np.int64).max)
    return Heard(
        report.gap_ms,
        float(np.count_nonzero(~near) * FRAME_MS),
        after_s,
        report.longest_silence_ms,
        after - before if after is not None and before is not None else None,
        loudest,
        report.ended_by,
    )


def _behind(gaps: Times, end_ns: int, back_s: float) -> Times:
    """Of ascending gaps after the end of a fault those that belong to it: all within `back_s`, and those behind
    that go on without half a second between two."""
    last_ns, count = end_ns + round(back_s * S) - S // 2, 0
    for gap_ns in gaps:
        if gap_ns > last_ns + S // 2:
            break
        last_ns, count = max(last_ns, int(gap_ns)), count + 1
    return gaps[:count]
