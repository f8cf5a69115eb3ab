"""One probe call: a clip of real speech is said, what came back is scored."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import soxr

from gateway.caller.calls import Caller, CallPlan
from gateway.caller.codec import find_codec
from gateway.caller.command import read_audio
from gateway.caller.report import CallReport, report_call
from gateway.priority import keeping_time, stay_back
from gateway.probe.score import Samples, score_in

CLIP: Final = Path(__file__).with_name("sounds") / "speech-en.flac"
PAUSE_S: Final = 1.0
"""Of silence on both sides of the clip: P.862 wants a pause before the first utterance, and 8 s in all."""
ECHO_S: Final = 2.0
"""So long what was said last may take to come back."""
ANSWER_S: Final = 5.0

Reason = Literal["unreachable", "refused", "no-media", "unheard", "cut", "unscored", "timeout", "broken"]
REASONS: Final = get_args(Reason)
"""Why there is no score: nobody answered; a final status; no packet came; none of the clip was heard; the peer
hung up; PESQ finds no speech in it; the probe's process took too long; it ended without a word."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one probe. What needs sound is None where there was none."""

    codec: str
    reason: Reason | None = None
    """Why there is no score; None where there is one."""
    detail: str = ""
    status: int = 0
    """Final SIP status."""
    mos: float | None = None
    """MOS-LQO: P.862.1 of G.711, P.862.2 of G.722."""
    setup_ms: float | None = None
    delay_ms: float | None = None
    """Median, mouth to ear and back, the chunk's 200 ms included."""
    missing: float | None = None
    """Share (0 to 1) of what was said that did not come back: lost on either way, or late for its turn."""
    lost: float | None = None
    """Share (0 to 1) of the packets towards us that did not come."""


@cache
def clip(rate_hz: int) -> Samples:
    """int16 [n] with its pauses, at that rate."""
    pcm, own_hz = read_audio(CLIP)
    pause = np.zeros(round(PAUSE_S * rate_hz), np.int16)
    at_rate = pcm if own_hz == rate_hz else soxr.resample(pcm, own_hz, rate_hz)
    return np.concatenate([pause, at_rate, pause])


def plan(uri: str, codec: str) -> CallPlan:
    """The call; ValueError for what cannot be called."""
    rate_hz = find_codec(codec).rate_hz
    return CallPlan(
        uri, codec, clip(rate_hz), rate_hz, tail_s=ECHO_S, answer_timeout_s=ANSWER_S, lead_in_s=0.2
    )


async def probe(
    uri: str, codec: str, caller: type[Caller] = Caller, *, realtime: bool = False, scoring_nice: int = 0
) -> Outcome:
    """Place it and score it. A call that comes to nothing is an outcome, too; it takes some 12 s.

    `realtime`: the call keeps time as workers do, else a busy machine is heard in what we send ourselves.
    `scoring_nice`: behind the call this process steps back by so much, for good.
    """
    wanted = plan(uri, codec)
    try:
        with keeping_time() if realtime else contextlib.nullcontext():
            async with caller() as line:
                log = await line.place(wanted)
    except OSError as wrong:
        return Outcome(codec, "unreachable", str(wrong))
    if scoring_nice:
        stay_back(scoring_nice)
    return judge(report_call(log), wanted.play_pcm)


def judge(report: CallReport, said: Samples) -> Outcome:
    """What a finished call was worth; `said` is the clip at the call's rate."""
    codec, status = report.codec, report.status
    if not report.answered:
        silent = report.ended_by in ("timeout", "us")
        reason: Reason = "unreachable" if silent else "refused"
        return Outcome(codec, reason, f"{status} {report.reason}", status)
    packets = report.received_packets - report.duplicate_packets
    lost = round(report.lost_packets / max(1, packets + report.lost_packets), 4)
    delay, windows = report.delay_ms, report.windows
    if report.recording is None or not packets:
        return Outcome(codec, "no-media", "no packet came back", status, setup_ms=report.setup_ms)
    if delay is None or windows is None or not windows.active_ms:
        return Outcome(
            codec, "unheard", "nothing of the clip came back", status, setup_ms=report.setup_ms, lost=lost
        )
    mos = score_in(said, report.recording, report.rate_hz)
    missing = round(windows.gap_ms / windows.active_ms, 4)
    cut = report.ended_by != "us"
    failed: Reason | None = "cut" if cut else "unscored" if mos is None else None
    detail = {"cut": f"the peer ended it ({report.ended_by})", "unscored": "PESQ finds no speech"}
    return Outcome(
        codec, failed, detail.get(failed or "", ""), status,
        mos=None if failed or mos is None else round(mos, 3),
        setup_ms=report.setup_ms, delay_ms=delay.p50, missing=missing, lost=lost,
    )  # fmt: skip
