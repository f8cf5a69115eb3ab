"""Recordings on the clock of what was played."""

from __future__ import annotations

import json
from array import array

import numpy as np
import pytest

from gateway.caller.analysis import ReceivedAudio
from gateway.caller.calls import CallLog, CallPlan
from gateway.caller.codec import find_codec
from loadtests.dialogues import LEAD_IN_S, Plan, main, synchronous

RATE = 8000
PACKET = 160
MS = 1_000_000


def log_of(seconds: float) -> CallLog:
    """A call that played so much silence; packets left every 20 ms from 1 s on."""
    plan = CallPlan("sip:127.0.0.1", "PCMU", np.zeros(round(seconds * 16000), np.int16), lead_in_s=LEAD_IN_S)
    log = CallLog(plan, find_codec("PCMU"), plan.timeline())
    log.sent_ns = array("q", (1_000 * MS + 20 * MS * n for n in range(log.sent_pcm.size // PACKET)))
    return log


def received(pcm: np.ndarray, arrivals_ns: list[int]) -> ReceivedAudio:
    count = len(arrivals_ns)
    return ReceivedAudio(
        pcm=pcm, rate_hz=RATE,
        start=np.arange(count) * PACKET, size=np.full(count, PACKET), arrival_ns=np.array(arrivals_ns),
        packets=count, lost=0, duplicates=0, reordered=0, other=0, jitter_ms=0.0, longest_silence_ms=20.0,
    )  # fmt: skip


def test_what_came_back_at_once_lies_where_it_was_played():
    log = log_of(2.0)
    pcm = np.zeros(200 * PACKET, np.int16)
    click = round((LEAD_IN_S + 0.5) * RATE)
    pcm[click] = 9000
    arrivals = [1_000 * MS + 20 * MS * n + (3 * MS if n % 7 == 0 else 0) for n in range(200)]
    out = synchronous(log, received(pcm, arrivals))
    assert len(out) == 2 * RATE
    assert np.flatnonzero(out).tolist() == [RATE // 2]


def test_what_came_later_lies_later():
    pcm = np.zeros(200 * PACKET, np.int16)
    pcm[0] = 9000
    arrivals = [round((1.0 + LEAD_IN_S + 0.25) * 1000) * MS + 20 * MS * n for n in range(200)]
    out = synchronous(log_of(2.0), received(pcm, arrivals))
    assert np.flatnonzero(out).tolist() == [RATE // 4]


@pytest.mark.parametrize("text", ["{", "{}", json.dumps({"engine": "echo", "calls": []})])
def test_a_plan_that_is_none_is_refused(tmp_path, capsys, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_plan_has_its_defaults():
    plan = Plan.of(json.dumps({"engine": "digits", "calls": [{"play": "a", "record": "b"}]}))
    assert (plan.at_once, plan.codec, plan.settings) == (4, "PCMU", {})
