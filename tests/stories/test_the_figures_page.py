"""An operator without Prometheus looks at a gateway under calls: /console/figures shows what /metrics says.

With MICROTURN_SHOTS=docs calls go on for a minute, and a picture is left there: console-figures.png.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.caller.calls import CallLog, CallPlan
from gateway.caller.signals import numbered_tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.server import StateServer, first_program
from tests.support.chromium import Chromium
from tests.support.lossy_caller import lossy_caller

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.processes, pytest.mark.redis]

SHOTS = os.environ.get("MICROTURN_SHOTS", "")
RATE_HZ, CALLS = 8_000, 12
SECONDS = 38.0 if SHOTS else 14.0


async def calls(uri: str) -> None:
    """As many as there is room for, and more; half of them end early and come again."""
    rng = np.random.default_rng(5)
    async with lossy_caller(0.02, seed=3)() as caller:
        calling: list[asyncio.Task[CallLog]] = []
        until_s = time.monotonic() + SECONDS
        while (left_s := until_s - time.monotonic()) > 3:
            for_s = min(left_s, float(rng.uniform(4, 30)) if len(calling) % 2 else left_s)
            said = numbered_tones(for_s, RATE_HZ, len(calling))
            plan = CallPlan(uri, "PCMU", said, RATE_HZ)
            calling.append(asyncio.create_task(caller.place(plan)))
            await asyncio.sleep(0.3 if len(calling) < CALLS else 2.5)
        await asyncio.gather(*calling)


def until(page: Page, holds: Callable[[], bool], what: str) -> None:
    """The page's policy lets nobody wait in it."""
    deadline_s = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline_s, f"never: {what}\n{page.locator('main').inner_text()[:1_000]}"
        page.wait_for_timeout(50)


def test_an_operator_sees_what_the_metrics_say(tmp_path: Path) -> None:
    server = StateServer(first_program(), tmp_path / "state").start()
    settings = {"redis": server.url, "webrtc_calls": "2"}
    try:
        with GatewayUnderTest.start(GatewayWish(CALLS + 8, settings=settings)) as gateway:
            talking = threading.Thread(target=lambda: asyncio.run(calls(gateway.uri)))
            talking.start()
            try:
                with Chromium.start(viewport={"width": 1280, "height": 900}) as chromium:
                    look(gateway, chromium)
            finally:
                talking.join()
    finally:
        server.stop()


def look(gateway: GatewayUnderTest, chromium: Chromium) -> None:
    page = chromium.open(f"{gateway.http}/console/figures")

    def tile(name: str) -> str:
        return page.locator(f"#tile-{name} dd").inner_text()

    gateway.wait_for(lambda m: m["microturn_calls_live"] >= CALLS, 20.0)
    until(page, lambda: tile("live").isdigit() and int(tile("live")) >= CALLS, "calls are seen")
    until(page, lambda: tile("stepP99").endswith("ms"), "steps are seen")
    free = gateway.metrics()["microturn_predicted_free_calls"]
    assert abs(float(tile("free")) - free) <= 4
    assert page.locator("#parts").inner_text().count("answers") == 2, "model server and Redis"
    page.locator("#all summary").click()
    page.locator("#filter").fill("tasks_asked")
    until(page, lambda: page.locator("#rows tr").count() == 1, "one figure is found")
    assert "models handed off" in page.locator("#rows").inner_text()
    page.locator("#all summary").click()
    if SHOTS:
        page.locator("#span").select_option("1")
        page.wait_for_timeout(1_000 * (SECONDS - 10))
        page.screenshot(path=Path(SHOTS) / "console-figures.png", full_page=True)
    assert chromium.complaints == []
