"""The disk of recordings and of events is full while calls are recorded, and then there is room again.

Both folders are on a filesystem in memory of a few MB that this mounts, for which it has to be root. It is filled
by a file of our own, to the last byte, so that the next write of anybody is refused.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from gateway.caller.calls import CallPlan
from gateway.caller.report import report_call
from gateway.recording.finish import decrypt
from gateway.recording.keys import Keyring
from loadtests.faults.calls import LiveCalls, check_all_free, check_new_call, check_untouched, live_calls
from loadtests.faults.outcome import Outcome, Plan
from loadtests.faults.stalled import grown
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.state_cases import state_server

MEGABYTES = 16
FULL_S, SHORT_FULL_S = 8.0, 4.0
ROOM_S = 4.0
"""After it."""
SHORT_CALLS, SHORT_CALL_S = 6, 1.5
"""While it is full: their events are more than the page of 4 kB that the spool's file has already."""
RECORDED = "100"
KEY = base64.b64encode(bytes(range(32))).decode()
NOBODY = {"url": "http://127.0.0.1:9/", "secret": "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()}
"""An endpoint that takes nothing, so that all events stay in the spool."""
FINISHED_S = 20.0
SILENT_RMS = 1.0
LOST_TOLERANCE_S = 2.0
"""A frame of the recording is 0.6 s, at each end."""


@contextlib.contextmanager
def small_disk(megabytes: int = MEGABYTES) -> Iterator[Path]:
    """A filesystem of that size. `PermissionError` where none may be mounted."""
    with tempfile.TemporaryDirectory(prefix="mt-disk-") as folder:
        told = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "microturn-test", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if told.returncode:
            raise PermissionError(f"no small disk can be mounted, which takes root: {told.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast


async def disk_full(plan: Plan) -> Outcome:
    """Calls hear nothing of it; recordings are silent for that time and whole else, and it is counted."""
    outcome = Outcome("disk-full")
    full_s = FULL_S if len(plan.stalls_s) > 1 else SHORT_FULL_S
    try:
        with small_disk() as folder, state_server() as server:
            await _on(folder, server.url, plan, full_s, outcome)
    except PermissionError as wrong:
        outcome.skipped = str(wrong)
    return outcome


async def _on(folder: Path, redis: str, plan: Plan, full_s: float, outcome: Outcome) -> None:
    count = min(plan.calls, 8)
    settings = {
        "rules": json.dumps([{"called": RECORDED, "recording": True}]),
        "recording_dir": str(folder / "recordings"), "recording_key": KEY,
        "redis": redis, "background_workers": "0",
        "events_dir": str(folder / "events"), "webhooks": json.dumps({"nobody": NOBODY}),
    }  # fmt: skip
    with GatewayUnderTest.start(GatewayWish(calls=count + SHORT_CALLS, settings=settings)) as gateway:
        async with live_calls(gateway) as calls:
            short = [calls.plan(SHORT_CALL_S, RECORDED, 500 + number) for number in range(SHORT_CALLS)]
            await calls.place(count, full_s + ROOM_S + 1.0, RECORDED)
            before = await asyncio.to_thread(gateway.metrics)
            seen = await _full_for(folder, full_s, calls, short, gateway)
            await asyncio.sleep(ROOM_S)
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
        begun = int(seen["microturn_recordings_begun_total"])
        await asyncio.to_thread(
            gateway.wait_for,
            lambda m: m["microturn_recordings_kept_finished_total"] >= count and not _live(folder), FINISHED_S,
        )  # fmt: skip
        after = await asyncio.to_thread(gateway.metrics)
    names = ("recordings_write_errors", "recordings_failed", "events_refused_error", "calls_lost")
    outcome.figures |= {
        "calls": len(logs), "full_s": full_s, "recordings": begun, **grown(before, after, names),
        "dropped_s": round(after["microturn_recordings_dropped_seconds_total"], 1),
        "refused_s": round(after["microturn_recordings_refused_seconds_total"], 1),
        "ended_calls": sum(log.ended_by != "us" for log in logs),
    }  # fmt: skip
    sounds = [_sound(path, folder) for path in sorted((folder / "recordings" / "done").glob("*.wav.mtr"))]
    judge_recordings(outcome, sounds, count, full_s)
    outcome.expect(all(log.answered for log in logs), "a call was not answered")
    outcome.expect(not outcome.figures["ended_calls"], f"{outcome.figures['ended_calls']} calls were ended")
    outcome.expect(outcome.figures["recordings_write_errors"] > 0, "no write was refused: nothing is shown")
    outcome.expect(outcome.figures["events_refused_error"] > 0, "no event was refused: nothing is shown")
    check_untouched(outcome, [report_call(log) for log in logs])


async def _full_for(
    folder: Path, full_s: float, calls: LiveCalls, short: Sequence[CallPlan], gateway: GatewayUnderTest
) -> dict[str, float]:
    """No room for so long, in which a call begins and ends. What the metrics were at the end of it."""
    ballast = await asyncio.to_thread(fill, folder)
    try:
        begun_s = time.monotonic()
        for one in short:
            calls.begin(one)
            await asyncio.sleep(1 / SHORT_CALLS)
        await asyncio.sleep(begun_s + full_s - time.monotonic())
        return await asyncio.to_thread(gateway.metrics)
    finally:
        ballast.unlink()


def _live(folder: Path) -> list[Path]:
    return list((folder / "recordings" / "live").iterdir())


def _sound(path: Path, folder: Path) -> np.ndarray:
    """int16 [n, 2] at 8 kHz."""
    out = folder / "out.wav"
    decrypt(path, out, Keyring(KEY))
    sound, _ = soundfile.read(out, dtype="int16")
    out.unlink()
    return np.asarray(sound)


def judge_recordings(outcome: Outcome, sounds: list[np.ndarray], calls: int, full_s: float) -> None:
    """Those of calls that lived through it are as long as they, and silent for about as long as it was full."""
    long = [sound for sound in sounds if len(sound) > (full_s + ROOM_S) * 8_000]
    silent_s = [silence_s(sound) for sound in long]
    outcome.figures |= {"recordings_whole": len(long), "silent_s_worst": max(silent_s, default=0.0)}
    outcome.expect(len(long) == calls, f"{len(long)} recordings are of a whole call, but {calls} calls were")
    wrong = [one for one in silent_s if abs(one - full_s) > LOST_TOLERANCE_S]
    outcome.expect(
        not wrong, f"{wrong[:3]} s of a recording are silent, but the disk was full for {full_s} s"
    )
    dropped_s = outcome.figures["dropped_s"]
    outcome.expect(
        dropped_s >= sum(silent_s) - LOST_TOLERANCE_S * len(silent_s),
        f"{sum(silent_s):.1f} s are silent, but {dropped_s} s were counted as dropped",
    )


def silence_s(sound: np.ndarray) -> float:
    """Of a recording, int16 [n, 2] at 8 kHz: whole tenths of a second in which the caller's side has nothing,
    between the first and the last in which it has."""
    tenths = sound[: len(sound) // 800 * 800, 0].astype(np.float64).reshape(-1, 800)
    loud = np.sqrt(np.mean(tenths**2, axis=1)) > SILENT_RMS
    spoken = np.flatnonzero(loud)
    return round(float(np.count_nonzero(~loud[spoken[0] : spoken[-1]])) / 10, 1) if len(spoken) else 0.0
