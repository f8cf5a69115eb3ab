"""Two engines behind one number plan: calls are told apart by whose slots they have, and each is alone with its own
model server's fate. The third engine is somebody else's, and away.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.caller.calls import Caller, CallLog
from gateway.caller.report import report_call
from gateway.priority import keeping_time
from gateway.state.records import Cdr, Session, decode
from loadtests.faults.calls import tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import StateServer

pytestmark = pytest.mark.processes

LEASED, LAB = "microturn_model_slots_leased", '{engine="lab"}'
ENGINES = {"lab": {"engine": "echo", "slots": 8}, "away": {"socket": "/nowhere/at.all/model.sock"}}
RULES = [{"called": "lab", "engine": "lab"}, {"called": "away", "engine": "away"}]
SETTINGS = {"engines": json.dumps(ENGINES), "rules": json.dumps(RULES)}
ROOT = Path(__file__).parents[2]


def wish(**settings: str) -> GatewayWish:
    return GatewayWish(calls=4, settings=SETTINGS | settings, ready_timeout_s=60.0)


def wait_for_both(gateway: GatewayUnderTest) -> None:
    """All workers are attached to both."""
    workers = len(gateway.workers())
    name = "microturn_model_workers_attached_total"
    gateway.wait_for(lambda m: min(m[name], m[name + LAB]) >= workers, 30.0)


def at(gateway: GatewayUnderTest, name: str) -> str:
    return gateway.uri.replace("sip:", f"sip:{name}@")


def usual_server(gateway: GatewayUnderTest) -> Process:
    (found,) = [p for p in gateway.processes() if p.kind == "model-server" and not p.name]
    return found


async def until_leased(gateway: GatewayUnderTest, usual: int, lab: int) -> None:
    await asyncio.to_thread(gateway.wait_for, lambda m: (m[LEASED], m[LEASED + LAB]) == (usual, lab), 20.0)


def heard(log: CallLog) -> bool:
    """To its end, which was the caller's."""
    return log.ended_by == "us" and log.arrivals_ns[-1] > log.listened_until_ns - 10**9


def test_each_call_is_its_engines_and_one_that_is_away_refuses_its_own_alone() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        with keeping_time():
            async with Caller() as caller:
                uris = (gateway.uri, at(gateway, "lab"), at(gateway, "lab"), at(gateway, "away"))
                *plans, nobody = [tones(uri, 12.0, seed) for seed, uri in enumerate(uris)]
                calls = [asyncio.create_task(caller.place(plan)) for plan in plans]
                await until_leased(gateway, 1, 2)
                refused = report_call(await caller.place(nobody))
                assert (refused.answered, refused.status) == (False, 503)
                usual, lab = usual_server(gateway), gateway.only("model-server", "lab")
                lab.kill()
                await asyncio.to_thread(gateway.successor, lab)
                await until_leased(gateway, 1, 2)
                assert usual_server(gateway) == usual
                return list(await asyncio.gather(*calls))

    with GatewayUnderTest.start(wish()) as gateway:
        wait_for_both(gateway)
        assert gateway.metrics()['microturn_model_up{engine="away"}'] == 0
        logs = asyncio.run(story(gateway))
        gateway.wait_for(lambda m: (m["microturn_calls_live"], m[LEASED], m[LEASED + LAB]) == (0, 0, 0))
        lost, workers = gateway.metrics()["microturn_model_servers_lost_total"], len(gateway.workers())
        assert any("engine away has no model server" in line for line in list(gateway.lines))
    assert all(heard(log) for log in logs)
    gaps_ms = [report.gap_ms for report in map(report_call, logs)]
    assert gaps_ms[0] < min(gaps_ms[1:]), "it heard nothing of it"
    assert lost == workers, "each was attached to it, and lost nothing else"


@pytest.mark.long
def test_an_upgrade_of_one_engine_moves_its_calls_alone() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        with keeping_time():
            async with Caller() as caller:
                plans = [tones(uri, 40.0, seed) for seed, uri in enumerate((gateway.uri, at(gateway, "lab")))]
                calls = [asyncio.create_task(caller.place(plan)) for plan in plans]
                await until_leased(gateway, 1, 1)
                usual, lab = usual_server(gateway), gateway.only("model-server", "lab")
                done = await asyncio.to_thread(upgrade, gateway, "lab")
                assert done.returncode == 0, (done.stdout, done.stderr, list(gateway.lines)[-20:])
                assert "1 calls moved" in done.stdout and not lab.alive
                assert usual_server(gateway) == usual
                await until_leased(gateway, 1, 1)
                other = await asyncio.to_thread(upgrade, gateway, "away")
                assert (
                    other.returncode == 1
                    and "'away' is not among those that microturn up has started" in other.stderr
                )
                await asyncio.sleep(3.0)
                caller.wind_up()
                return list(await asyncio.gather(*calls))

    with GatewayUnderTest.start(wish()) as gateway:
        wait_for_both(gateway)
        logs = asyncio.run(story(gateway))
        metrics = gateway.metrics()
    assert all(heard(log) for log in logs)
    assert metrics["microturn_calls_moved_total"] == 1 and metrics["microturn_replies_stale_total"] == 0


@pytest.mark.redis
@pytest.mark.long
def test_an_adopted_call_keeps_its_engine_in_worker_and_records(server: StateServer) -> None:  # noqa: F811
    async def story(gateway: GatewayUnderTest) -> CallLog:
        with keeping_time():
            async with Caller() as caller:
                call = asyncio.create_task(caller.place(tones(at(gateway, "lab"), 10.0, 1)))
                await until_leased(gateway, 0, 1)
                await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_state_buffered"] == 0, 10.0)
                victim = gateway.only("gateway")
                victim.kill()
                await asyncio.to_thread(gateway.successor, victim)
                await asyncio.to_thread(
                    gateway.wait_for, lambda m: m["microturn_edge_calls_adopted_total"] == 1, 10.0
                )
                await until_leased(gateway, 0, 1)
                return await call

    with GatewayUnderTest.start(wish(redis=server.url)) as gateway:
        wait_for_both(gateway)
        assert heard(asyncio.run(story(gateway)))
        gateway.wait_for(
            lambda m: m["microturn_calls_live"] == 0 and m["microturn_state_buffered"] == 0, 30.0
        )
    with server.look() as look:
        kept = [decode(Session, look.get(name) or b"") for name in look.scan_iter("microturn:*:session")]
        cdrs = [decode(Cdr, row) for key in look.scan_iter("microturn:*:cdr") for row in look.hvals(key)]
    assert [session.engine for session in kept] == ["lab"] and [cdr.engine for cdr in cdrs] == ["lab"]


def upgrade(gateway: GatewayUnderTest, engine: str) -> subprocess.CompletedProcess[str]:
    """`microturn upgrade --engine`."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "upgrade", "--run-dir", str(gateway.run_dir), "--engine", engine],
        env={k: v for k, v in os.environ.items() if not k.startswith("MICROTURN_")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90.0,
    )
