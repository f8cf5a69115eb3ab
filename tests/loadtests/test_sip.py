"""`python -m loadtests sip`: whom it may call, what it plays, and a small run against a program not ours."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loadtests import report, sip
from loadtests.__main__ import main


@pytest.mark.parametrize("target", ["192.0.2.1:5060", "example.org:5060", "0.0.0.0:5060"])
def test_only_this_machine_is_called(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sip", "--calls", "1", "--seconds", "1", "--target", target]) == 2
    assert "loopback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--calls", "0"], ["--codec", "GSM"], ["--play", "/nowhere"]])
def test_wrong_arguments_are_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sip", *arguments]) == 2
    assert "loadtests sip:" in capsys.readouterr().err


def test_unknown_kinds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert main([]) == 2
    assert "sip" in capsys.readouterr().err


def test_ready_lines() -> None:
    both = sip.parse_ready("ready sip:127.0.0.1:5060 http://127.0.0.1:8080\n")
    assert both == ("sip:127.0.0.1:5060", "http://127.0.0.1:8080")
    assert sip.parse_ready("ready sip:127.0.0.1:5060\n") == ("sip:127.0.0.1:5060", "")
    assert sip.parse_ready("not ready sip:127.0.0.1:5060\n") is None
    assert sip.parse_ready("ready\n") is None


def test_speech_fills_the_call_and_differs_between_calls_but_not_between_runs() -> None:
    sounds = [np.full(100 * n, n, dtype=np.int16) for n in range(1, 9)]
    first = sip.speech(sounds, 1.0, 8000, seed=1, index=0)
    assert first.size == 8000
    np.testing.assert_array_equal(first, sip.speech(sounds, 1.0, 8000, seed=1, index=0))
    assert not np.array_equal(first, sip.speech(sounds, 1.0, 8000, seed=1, index=1))
    assert not np.array_equal(first, sip.speech(sounds, 1.0, 8000, seed=2, index=0))
    tones = [sip.speech([], 1.0, 8000, seed=1, index=n) for n in range(2)]
    assert tones[0].size == 8000 and not np.array_equal(*tones)


@pytest.mark.sip
def test_a_small_run_against_sipp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("sipp") is None:
        pytest.skip("sipp is not installed")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, sip.speech([], 2.0, 16000, 1, 0), 16000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["sipp", "-sn", "uas", "-rtp_echo", "-i", "127.0.0.1", "-mi", "127.0.0.1", "-nostdin"]
    process = subprocess.Popen(
        [*command, "-p", str(port), "-mp", str(port + 2 & ~1)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while f":{port:04X} " not in Path("/proc/net/udp").read_text():
            assert time.monotonic() < deadline, "sipp does not listen"
            time.sleep(0.02)
        arguments = ["--calls", "3", "--seconds", "2", "--ramp", "50", "--play", str(sound)]
        target = ["--target", f"127.0.0.1:{port}", "--pid", str(process.pid)]
        assert main(["sip", *arguments, *target]) == 0
    finally:
        process.kill()
        process.wait()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["answered"], result["refused"]) == (3, 0)
    assert result["cpu_percent_per_call"].keys() == {"other", "total"}
    assert result["delay_ms"]["p50"] == pytest.approx(-200, abs=20)  # sipp holds nothing back
    assert result["gap_ms"] == 0
    assert result["turns"] == {"total": None, "missed": None, "late": None}
    assert (tmp_path / "results/sip.csv").exists()


@pytest.mark.processes
def test_a_gateway_that_does_not_come_up_is_said_and_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho cannot start: $*\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    assert main(["sip", "--calls", "1", "--seconds", "1"]) == 1
    said = capsys.readouterr().err
    assert "ended before it was ready" in said
    assert "gateway up --kept --engine echo" in said
