"""Two telephones call a gateway with the engine `moshi`: each hears what the package's own loop answers it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soxr

from gateway.caller.calls import CallPlan, place_call
from gateway.caller.report import CallReport
from gateway.state.records import Cdr, decode
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from media.chunk import PCM
from media.timebase import MODEL_HZ
from model_server.engine.moshi.captions import Captions
from model_server.engine.moshi.frames import FRAME_HZ, lead_of
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import StateServer
from tests.on_moshi import tiny
from tests.on_moshi.conftest import packages_own, speech
from tests.support.moshi_here import needs_moshi
from tests.support.table_watch import TableWatch

pytestmark = [needs_moshi, pytest.mark.processes, pytest.mark.redis]

SECONDS = 6.0
PHONE_HZ = 8_000
READY_S = 120.0
WINDOW = PHONE_HZ * 4 // 10
ALIKE = 0.9
"""Of sound that was through G.711 and resamplers, with itself."""


async def calls(gateway: GatewayUnderTest, watch: TableWatch, sounds: Sequence[PCM]) -> list[CallReport]:
    plans = [CallPlan(gateway.uri, "PCMU", sound.ravel(), MODEL_HZ, SECONDS) for sound in sounds]
    placed = [asyncio.ensure_future(place_call(plan)) for plan in plans]
    while not all(call.done() for call in placed):
        watch.look()
        await asyncio.sleep(0.05)
    return [call.result() for call in placed]


def windows_alike(heard: PCM, said: PCM) -> tuple[int, int]:
    """Of pieces of 0.4 s of what was said, how many are heard anywhere, and how many there are; without the end,
    which nobody waits for."""
    pieces = said[: len(said) * 3 // 4 // WINDOW * WINDOW].reshape(-1, WINDOW).astype(float)
    flat, size = heard.astype(float), 1 << (len(heard) + WINDOW).bit_length()
    energy = np.sqrt(np.convolve(flat * flat, np.ones(WINDOW), "valid"))
    spectrum, found = np.fft.rfft(flat, size), 0
    for piece in pieces:
        fits = np.fft.irfft(spectrum * np.conj(np.fft.rfft(piece, size)), size)[: len(energy)]
        found += bool(np.max(fits / (energy * np.linalg.norm(piece) + 1e-9)) > ALIKE)
    return found, len(pieces)


def test_two_calls_at_once_hear_what_the_package_says(
    model_folder: Path,
    server: StateServer,  # noqa: F811
) -> None:
    settings = {"weights": str(model_folder), "slots": "2", "redis": server.url}
    wish = GatewayWish(2, "moshi", settings=settings, ready_timeout_s=READY_S)
    with GatewayUnderTest.start(wish) as gateway:
        with TableWatch(gateway.run_dir / "model.sock") as watch:
            reports = asyncio.run(calls(gateway, watch, [speech(61, 40), speech(62, 40)]))
        gateway.wait_for(
            lambda m: m["microturn_calls_live"] == 0 and m["microturn_state_buffered"] == 0, 30.0
        )
        figures = gateway.metrics()
    assert all(report.answered for report in reports), gateway.lines
    heard_of: dict[int, list[PCM]] = {}
    for slot, pcm in watch.sound:
        heard_of.setdefault(slot, []).append(pcm)
    counts = [len(turns) for turns in heard_of.values()]
    assert len(counts) == 2 and min(counts) >= 25, counts
    theirs = [packages_own(model_folder, turns) for turns in heard_of.values()]
    lead = np.zeros(lead_of(1), np.int16)
    said = [
        soxr.resample(np.concatenate([lead, *answered.pcm]).astype(np.float32), FRAME_HZ, PHONE_HZ)
        for answered in theirs
    ]
    found = np.array([[windows_alike(report.recording, each) for each in said] for report in reports])
    own, others, whole = found[..., 0].max(axis=1), found[..., 0].min(axis=1), found[..., 1].max()
    missed = sum(figures[f"microturn_turns_{name}_total"] for name in ("missed", "late"))
    # both begin with the same token; a turn that came too late is missing in two pieces
    assert sorted(found[..., 0].argmax(axis=1)) == [0, 1] and others.max() <= whole // 4, found
    assert own.min() >= max(whole // 3, whole - 2 * missed), (found, missed)
    captions = Captions.of(model_folder / "tokenizer.model", {3, 0})
    words = ["".join(map(captions.begun().read, answered.text)) for answered in theirs]
    assert watch.said and all(any(line.strip() in text for text in words) for line in watch.said)
    assert figures["microturn_model_moshi_context_frames"] == tiny.CONTEXT
    assert figures["microturn_model_moshi_turns_unheard_total"] <= sum(counts) // 8  # late: a busy machine
    with server.look() as look:
        cdrs = [decode(Cdr, row) for key in look.scan_iter("microturn:*:cdr") for row in look.hvals(key)]
    assert [cdr.figures.memory for cdr in cdrs] == ["rolling 1"] * 2


def test_without_weights_nothing_is_started(tmp_path: Path) -> None:
    tried = subprocess.run(
        [sys.executable, "-m", "gateway", "up", "--engine", "moshi", "--run-dir", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert tried.returncode == 2 and "--weights" in tried.stderr and "CC-BY" in tried.stderr
    assert tried.stdout == "" and not (tmp_path / "run").exists()


def test_more_calls_than_fit_are_refused_before_anything_starts(model_folder: Path, tmp_path: Path) -> None:
    from gateway.engines import ask_moshi

    assert ask_moshi(str(model_folder), 4).good
    held = ask_moshi(str(model_folder), 4_000_000)
    assert not held.can_start and "--slots" in held.found
