"""A new model server takes over while people talk: real calls, a real `microturn up` and `microturn upgrade`.

Here stand the facts. That no turn is lost is shown with time as an argument in `tests/model_server/test_moving.py`;
what callers hear is measured by `python -m loadtests faults`, on a machine that has nothing else to do.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.engines import choose, shipped_checkpoint
from loadtests.faults.calls import live_calls
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.upgrades import assert_goes_on, upgrade, upgraded

pytestmark = pytest.mark.processes

CALLS = 4
HEARD_S = 4.0
"""After all of it: `assert_goes_on` looks at so much."""


def test_a_new_model_server_takes_over_and_another_one_after_it() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 30.0)
            await upgraded(gateway, CALLS)
            second = gateway.only("model-server")
            assert second.pid != old.pid and not old.alive
            await upgraded(gateway, CALLS)
            assert gateway.only("model-server").pid != second.pid and not second.alive
            await calls.until(lambda m: m["microturn_model_slots_leased"] == CALLS)
            return await calls.finish(after_s=HEARD_S)

    # a worker for browsers, too, which has no call
    with GatewayUnderTest.start(GatewayWish(calls=CALLS, settings={"webrtc_calls": "2"})) as gateway:
        old = gateway.only("model-server")
        logs = asyncio.run(story(gateway))
        metrics = gateway.metrics()
        assert not any("model server gone" in line for line in list(gateway.lines)), "both were told to go"
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
    assert metrics["microturn_calls_moved_total"] == 2 * CALLS
    assert metrics["microturn_model_calls_moved_total"] == CALLS
    assert metrics["microturn_replies_stale_total"] == 0
    assert_goes_on(logs)


@pytest.mark.long
def test_who_hangs_up_while_calls_move_is_gone_from_both(tmp_path: Path) -> None:
    async def story(gateway: GatewayUnderTest) -> subprocess.CompletedProcess[str]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 9.0)
            upgrading = asyncio.create_task(asyncio.to_thread(upgrade, gateway))
            while not any("leaving" in line for line in list(gateway.lines)):
                await asyncio.sleep(0.01)
            await calls.cancel()  # all of them, in the seconds in which workers begin
            return await upgrading

    with GatewayUnderTest.start(GatewayWish(calls=CALLS)) as gateway:
        done = asyncio.run(story(gateway))
        assert done.returncode == 0, (done.stdout, done.stderr, list(gateway.lines)[-20:])
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
        assert gateway.metrics()["microturn_calls_lost_total"] == 0


@pytest.mark.long
def test_a_wrong_setting_is_told_and_everything_goes_on(tmp_path: Path) -> None:
    settings = tmp_path / "microturn.toml"
    settings.write_text("")

    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 6.0)
            settings.write_text('slots = "many"')
            done = await asyncio.to_thread(upgrade, gateway)
            assert done.returncode == 1 and "slots" in done.stderr and "goes on as it was" in done.stderr
            assert gateway.only("model-server") == old
            return await calls.finish()

    with GatewayUnderTest.start(GatewayWish(calls=CALLS, settings={"config": str(settings)})) as gateway:
        old = gateway.only("model-server")
        logs = asyncio.run(story(gateway))
        assert_goes_on(logs)


RATE_HZ = 8_000
SPEECH_S = 30.0
EVERY_S = 2.0
SPEECH_RMS = 300.0


def onsets_s(pcm: np.ndarray) -> list[float]:
    """When something is said after half a second of quiet; int16 at `RATE_HZ`."""
    frames = pcm[: pcm.size // 160 * 160].reshape(-1, 160).astype(np.float64)
    loud = np.flatnonzero(np.sqrt((frames**2).mean(1)) > SPEECH_RMS)
    return [float(at) * 0.02 for at, before in zip(loud, [-99, *loud[:-1]], strict=True) if at - before > 25]


@pytest.mark.long
@pytest.mark.skipif(choose("auto")[0] != "digits", reason=f"no trained model here: {choose('auto')[1]}")
def test_the_model_speaks_through_it_and_a_broken_checkpoint_changes_nothing(tmp_path: Path) -> None:
    checkpoint = tmp_path / "digits.safetensors"
    shutil.copy(shipped_checkpoint(), checkpoint)
    settings = {"model_checkpoint": str(checkpoint), "persona": f"every {EVERY_S:.0f}"}

    async def story(gateway: GatewayUnderTest) -> CallLog:
        async with Caller() as caller:
            silence = np.zeros(RATE_HZ, np.int16)
            call = asyncio.create_task(
                caller.place(CallPlan(gateway.uri, "PCMU", silence, RATE_HZ, seconds=SPEECH_S))
            )
            await asyncio.sleep(4.0)
            await upgraded(gateway, 1)
            new = gateway.only("model-server")
            checkpoint.write_bytes(b"no weights")
            failed = await asyncio.to_thread(upgrade, gateway)
            assert failed.returncode == 1 and str(checkpoint) in failed.stderr, failed.stderr
            assert gateway.only("model-server") == new != old
            return await call

    wish = GatewayWish(calls=2, engine="digits", settings=settings, ready_timeout_s=90.0)
    with GatewayUnderTest.start(wish) as gateway:
        old = gateway.only("model-server")
        log = asyncio.run(story(gateway))
        metrics = gateway.metrics()
    assert metrics["microturn_calls_moved_total"] == 1
    recording = report_call(log).recording
    assert recording is not None
    apart = np.diff(onsets_s(recording))
    assert len(apart) >= 8 and apart.max() < 2 * EVERY_S, apart
