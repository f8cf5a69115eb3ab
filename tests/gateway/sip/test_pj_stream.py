"""Streams of the library, pulled and pushed by us: two ends of real calls, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from gateway.sip.pj.endpoint import BYE_S

pytestmark = pytest.mark.processes

CHURN_ROUNDS = 25


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.calls_to_itself", *(str(word) for word in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def sound(rate_hz: int, codec: str, ptime_ms: int) -> dict[str, Any]:
    ended = run("sound", rate_hz, codec, ptime_ms)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = json.loads(ended.stdout.splitlines()[-1])
    assert isinstance(told, dict)
    return told


@pytest.mark.parametrize(
    ("rate_hz", "codec", "ptime_ms"),
    [
        (8_000, "PCMU", 20),
        (16_000, "G722", 20),
        (8_000, "PCMU", 10),
        (8_000, "PCMA", 30),
        (16_000, "G722", 40),
    ],
)
def test_a_peer_gets_packets_as_long_as_it_asks_for(rate_hz: int, codec: str, ptime_ms: int) -> None:
    """`a=ptime:40` ended a process of the published wheel, by an assertion."""
    told = sound(rate_hz, codec, ptime_ms)
    assert told["caller_hears"] > 0.99 and told["called_hears"] > 0.99
    assert told["digits"] == "5#", "they are sent between the packets"
    assert told["packet_ms"] == pytest.approx(ptime_ms, rel=0.15)


def test_a_narrow_call_of_a_wideband_worker_is_resampled() -> None:
    told = sound(16_000, "PCMU", 20)
    assert told["caller_hears"] > 0.99 and told["called_hears"] > 0.99


def test_streams_begin_and_end_under_the_clock_that_serves_them() -> None:
    """BYE from either end, hold, a hang-up before there is media, and streams that are destroyed untold."""
    ended = run("churn", CHURN_ROUNDS)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "survived"


def test_streams_begin_and_end_under_the_clock_that_pulls_from_them() -> None:
    """The same ends, in conferences."""
    ended = run("joined", CHURN_ROUNDS)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "survived"


def test_an_ear_that_breaks_ends_its_call_alone() -> None:
    ended = run("broken")
    assert ended.returncode == 0 and ended.stdout.splitlines()[-1] == "alone", ended.stderr


def test_whoever_watches_the_socket_of_sip_misses_no_message() -> None:
    ended = run("woken")
    assert (ended.returncode, ended.stderr) == (0, "")
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["connected"] and told["woken"] >= 2, "for its beginning and for its end"
    assert told["in_vain"] == 0


@pytest.mark.parametrize("pairs", [0, 1])
def test_calls_that_live_are_ended_before_the_library_goes_and_without_any_it_goes_at_once(
    pairs: int,
) -> None:
    ended = run("closed", pairs)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["left"] == 0
    assert (told["seconds"] >= BYE_S) == bool(pairs)
