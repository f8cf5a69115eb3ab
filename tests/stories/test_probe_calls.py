"""Probe calls through a gateway: speech goes there and back, its score is a metric, and nobody has had a call."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pesq", reason="pip install 'microturn[probe]'")

from gateway import catalogue
from gateway.caller.calls import CallPlan, place_call
from gateway.probe.command import ADDRESS
from gateway.probe.place import Outcome, clip
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import StateServer
from tests.support.own_gateway import OwnGateway

pytestmark = [pytest.mark.processes, pytest.mark.redis]

TREE = Path(__file__).parents[2]
ECHO = {"echo": {"engine": "echo", "slots": 8}}
GOOD, TRIES = 4.3, 3
"""PCMU alone has 4.48; whoever else needs the machine may hold up a turn of one probe, and of the next."""
MOS = 'microturn_probe_pesq_mos{codec="PCMU"}'


def by_hand(run_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`microturn probe`."""
    argv = [sys.executable, "-m", "gateway", "probe", f"--run-dir={run_dir}", *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MICROTURN_")}
    return subprocess.run(argv, capture_output=True, text=True, timeout=90, cwd=TREE, env=environment)


@pytest.mark.long
def test_a_gateway_probes_itself_and_writes_nothing_down(server: StateServer) -> None:  # noqa: F811
    settings = {
        "redis": server.url, "engines": json.dumps(ECHO), "probe_every_s": "30", "calls_without_rule": "refuse",
        "sip_allow": "192.0.2.0/24",
    }  # fmt: skip
    with GatewayUnderTest.start(GatewayWish(calls=12, settings=settings, ready_timeout_s=60.0)) as gateway:
        first = gateway.wait_for(lambda m: MOS in m, 60.0)
        shown = {name.partition("{")[0] for name in gateway.metrics() if name.startswith("microturn_probe_")}
        done = by_hand(gateway.run_dir, "--json")
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
        metrics = gateway.metrics()
        kept = [str(key) for key in server.look().scan_iter("*")]
        lines = list(gateway.lines)
    assert first is not False
    assert shown == {family.name for family in catalogue.families("probe")}
    assert 1.0 < metrics[MOS] < 4.6, "how high it is, is the next story's"
    assert 0.2 < metrics['microturn_probe_delay_seconds{codec="PCMU"}'] < 1.0
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and told["mos"] > 1.0 and told["reason"] is None, (done.stdout, done.stderr)
    assert re.match(
        r"PCMU: PESQ \d\.\d\d \(MOS-LQO\), round trip \d+ ms, missing \d+\.\d% of the speech", done.stdout
    )
    assert metrics["microturn_probe_calls_total"] == metrics["microturn_calls_ended_total"] >= 2
    assert not [key for key in kept if "cdr" in key or "session" in key or "legs" in key], kept
    assert not any("probe-" in line for line in lines), "its name is nobody's to read"


def own_probe(own: OwnGateway, codec: str = "PCMU") -> Outcome | None:
    assert own.gateway.probes is not None
    return own.do(own.gateway.probes.once(codec), 60.0)


@pytest.mark.long
def test_loss_on_the_way_lowers_the_score_that_is_shown() -> None:
    with OwnGateway.start(calls=8, probe_engine="") as own:
        probes = own.gateway.probes
        assert probes is not None
        clean = next(
            (found for found in (own_probe(own) for _ in range(TRIES)) if (found and found.mos or 0) > GOOD),
            None,
        )
        clean_shown = own.gateway.gauges()["probe_pesq_mos:PCMU"]
        probes.command = [sys.executable, "-m", "tests.support.lossy_probe", "--loss=0.1"]
        lossy = own_probe(own)
        lossy_shown = own.gateway.gauges()["probe_pesq_mos:PCMU"]
        counters = probes.counters
    assert clean is not None and lossy is not None and (clean.reason, lossy.reason) == (None, None)
    assert clean_shown > GOOD and lossy_shown < clean_shown - 0.8, (clean_shown, lossy_shown)
    assert (lossy.mos, lossy.lost) == (lossy_shown, 0.0), "it was lost on the way there, and made up"
    assert counters.admitted == counters.scored >= 2


def test_why_a_probe_has_no_score_and_that_callers_are_before_it() -> None:
    engines = {"away": {"socket": "/nowhere/at.all/model.sock"}}
    with OwnGateway.start(calls=4, engines=engines, probe_engine="away") as own:
        probes = own.gateway.probes
        assert probes is not None
        refused = own_probe(own)
        assert refused is not None and (refused.reason, refused.status) == ("refused", 503)
        assert probes.counters.refused == 1 and "probe_pesq_mos:PCMU" not in own.gateway.gauges()
        address = (own.settings.run_dir / ADDRESS).read_text().strip()
    with OwnGateway.start(calls=2, probe_engine="") as own:
        probes = own.gateway.probes
        assert probes is not None

        async def story() -> tuple[Outcome | None, int]:
            uri = own.uri
            plan = CallPlan(uri, "PCMU", clip(8_000), 8_000, seconds=4.0)
            caller = asyncio.create_task(place_call(plan))
            while own.gateway.live == 0:
                await asyncio.sleep(0.02)
            put_off = await probes.once("PCMU")  # one place of two is left, which is kept for a caller
            other = address.replace(address.rpartition("@")[2], uri.removeprefix("sip:"))
            stranger = (await place_call(CallPlan(other, "PCMU", plan.play_pcm, 8_000, seconds=0.5))).status
            assert (await caller).answered
            return put_off, stranger

        put_off, stranger = own.do(story(), 60.0)
        assert put_off is None and probes.counters.put_off == 1
        assert stranger == 200 and probes.counters.admitted == 0, "another gateway's name is any caller's"
