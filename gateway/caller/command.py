"""`microturn call`: one call of our own, from a sound file to a recording and figures."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from gateway.caller.calls import CallPlan, place_call
from gateway.caller.report import CallReport, DelaySummary
from gateway.caller.signals import fill

SOUND_RMS = 300.0
"""Above the hiss of any codec, below any voice."""


def run_call(
    uri: str, play: Path, record: Path | None, seconds: float | None, wait_s: float, codec: str, as_json: bool
) -> int:
    """Call `uri`, play a WAV or FLAC file (repeated to fill `seconds`), write what came back as WAV, report.

    `seconds` None: as long as the file, and `wait_s` to hear its end or an answer. The last line on standard
    output is one JSON object if `as_json`. Returns 0 only if the call was answered and anything was heard; 1 if
    not; 2 for an operator's mistake, said on standard error.
    """
    try:
        pcm, rate_hz = read_audio(play)
        if seconds is not None:
            pcm = fill(pcm, seconds, rate_hz)
        plan = CallPlan(uri, codec, pcm, rate_hz, seconds, tail_s=wait_s)
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        print(f"microturn call: {error}", file=sys.stderr)
        return 2
    try:
        report = asyncio.run(place_call(plan))
    except OSError as error:
        print(f"microturn call: cannot reach {uri}: {error}", file=sys.stderr)
        return 1
    if record is not None and report.recording is not None:
        soundfile.write(record, report.recording, report.rate_hz, subtype="PCM_16", format="WAV")
    print(summary(report))
    if as_json:
        print(json.dumps(figures(report)))
    return 0 if report.answered and (report.media_came_back or sounding_s(report)) else 1


def sounding_s(report: CallReport) -> float:
    """Seconds of the recording in which somebody spoke, to a tenth."""
    if report.recording is None:
        return 0.0
    size = report.rate_hz // 10
    tenths = report.recording[: len(report.recording) // size * size].reshape(-1, size).astype(np.float64)
    return float(np.sum(np.sqrt(np.mean(tenths * tenths, axis=1)) > SOUND_RMS)) / 10


def read_audio(path: Path) -> tuple[NDArray[np.int16], int]:
    """int16 [n] mono (the first channel) and its rate in Hz. Raises LibsndfileError for what is no sound
    file."""
    pcm, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
    return np.ascontiguousarray(pcm[:, 0]), int(rate_hz)


def figures(report: CallReport) -> dict[str, object]:
    """The JSON object of `microturn call`. Delays in ms, round trip; None where there was no media."""
    return {
        "status": report.status,
        "reason": report.reason,
        "retry_after": report.retry_after_s,
        "ended_by": report.ended_by,
        "setup_ms": _rounded(report.setup_ms),
        "delay_ms": _as_dict(report.delay_ms),
        "beyond_chunk_ms": _as_dict(report.beyond_chunk_ms),
        "sent_packets": report.sent_packets,
        "received_packets": report.received_packets,
        "lost_packets": report.lost_packets,
        "duplicate_packets": report.duplicate_packets,
        "concealed_ms": _rounded(report.concealed_ms),
        "gap_ms": _rounded(report.gap_ms),
        "active_ms": _rounded(report.active_ms),
        "jitter_ms": _rounded(report.jitter_ms),
        "longest_silence_ms": _rounded(report.longest_silence_ms),
        "mos": _rounded(report.mos),
        "codec": report.codec,
    }


def summary(report: CallReport) -> str:
    """A few lines for a person."""
    if not report.answered:
        again = f", try again in {report.retry_after_s} s" if report.retry_after_s is not None else ""
        return f"not answered: {report.status} {report.reason}{again}"
    lines = [
        f"answered in {report.setup_ms:.1f} ms, {report.codec}, ended by {report.ended_by}",
        f"sent {report.sent_packets} packets, received {report.received_packets}, "
        f"lost {report.lost_packets}, duplicates {report.duplicate_packets}, "
        f"jitter {report.jitter_ms:.2f} ms",
    ]
    delay, beyond = report.delay_ms, report.beyond_chunk_ms
    if delay is None or beyond is None:
        said = (
            f"somebody else spoke for {sounding_s(report):.1f} s"
            if sounding_s(report)
            else "nor anything else"
        )
        lines.append(f"nothing of what was played was heard again, {said}")
    else:
        lines += [
            f"round trip {_line(delay)}",
            f"beyond the 200 ms chunk {_line(beyond)}",
            f"missing {report.gap_ms:.0f} ms of {report.active_ms:.0f} ms, "
            f"estimated MOS {report.mos or 0:.2f}",
        ]
    return "\n".join(lines)


def _line(delay: DelaySummary) -> str:
    return (
        f"p50 {delay.p50:.1f} ms, p95 {delay.p95:.1f}, p99 {delay.p99:.1f}, max {delay.max:.1f}, "
        f"growth {delay.growth:+.1f}"
    )


def _as_dict(delay: DelaySummary | None) -> dict[str, float | None]:
    if delay is None:
        return dict.fromkeys(("p50", "p95", "p99", "max", "growth"))
    return dict(delay.as_dict())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
