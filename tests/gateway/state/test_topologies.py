"""The same store through TLS, Sentinel and Cluster, all on loopback."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.background.line import TaskLine
from gateway.background.records import Order, Still
from gateway.cluster.scripts import ANNOUNCE, TAKE
from gateway.cluster.scripts import keys as cluster_keys
from gateway.state.address import parse
from gateway.state.client import Client, Login
from gateway.state.delivery import Times
from gateway.state.records import Cdr, Line, Session
from loadtests.ports import free_port
from tests.gateway.state.server import (
    NAMESPACE,
    QUICK,
    Node,
    StateServer,
    entries,
    node,
    play,
    until,
    value,
)

pytestmark = pytest.mark.redis

CALLS = [f"b-{number:016x}" for number in range(24)]


async def tell(here: Node, first_turn: int = 0) -> None:
    """A little of each call."""
    for call in CALLS:
        if not first_turn:
            here.store.begin(call)
            here.store.put_session(call, Session(call, "sip", "n1", "sip-0", 1_000))
            here.store.put_cdr(call, Cdr(call, "sip", "n1", 1_000))
        for turn in range(first_turn, first_turn + 5):
            here.store.say(call, Line(turn, "caller", "hello"))
    await here.delivered()


@contextlib.contextmanager
def started(*servers: StateServer) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.stop()


def test_tls_with_a_certificate_that_is_checked(program: str, folder: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH: no certificate to test with")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(f"{make} -keyout k.pem -out c.pem".split(), cwd=folder, check=True, capture_output=True)
    port, ca = free_port(), str(folder / "c.pem")
    options = ["--tls-port", str(port), "--tls-cert-file", ca, "--tls-key-file", str(folder / "k.pem")]
    options += ["--tls-ca-cert-file", ca, "--tls-auth-clients", "no"]
    server = StateServer(program, folder / "d", options=options)

    async def story() -> None:
        url = f"rediss://127.0.0.1:{port}"
        async with node(url, login=Login(tls_ca=ca)) as here:
            await tell(here)
            assert here.counters.writes == 7 * len(CALLS)
        async with node(url, patience_s=0.1) as stranger:  # the system trusts no such certificate
            stranger.store.begin(CALLS[0])
            await until(lambda: stranger.counters.disconnects == 1)
            assert stranger.counters.writes == 0

    try:
        server.start()
    except AssertionError:
        server.stop()
        if "TLS support" not in server.said():
            raise
        pytest.skip(f"{Path(program).name} here is built without TLS")
    try:
        play(story())
        server.check_that_all_ends()
    finally:
        server.stop()


def test_the_master_that_sentinel_names(program: str, folder: Path) -> None:
    master = StateServer(program, folder / "m", port=free_port())
    config = folder / "sentinel.conf"
    watch = (
        f"sentinel monitor people 127.0.0.1 {master.port} 1\nsentinel down-after-milliseconds people 500\n"
    )
    config.write_text(watch)
    sentinel = StateServer(program, folder / "s", port=free_port(), options=[str(config), "--sentinel"])

    async def story() -> None:
        async with node(f"sentinel://127.0.0.1:{sentinel.port}/people") as here:
            await tell(here)
            master.kill()
            for call in CALLS:
                here.store.say(call, Line(7, "model", "still here"))
            await until(lambda: here.counters.disconnects == 1)
            master.start()
            await here.delivered()
            assert here.counters.dropped == 0
        with master.look() as look:
            assert all(entries(look, call)[-1] == (7, 1001) for call in CALLS)

    with started(master, sentinel):
        play(story())
        master.check_that_all_ends()


async def ask_of_all(client: Client) -> None:
    """What is not of one call, over all nodes of a cluster: gateways, limits, sessions and their tasks."""
    told = await client.script(
        ANNOUNCE, cluster_keys(NAMESPACE), ["n1", "", 1, 60_000, 600, b'{"node":"n1"}', b"{}"]
    )
    assert told[3:] == [b'{"node":"n1"}']
    asked = ["n1", told[1], 2, b'{"t":1}', b'{"t":1}']
    assert await client.script(TAKE, cluster_keys(NAMESPACE), asked) == [b"ok", told[1], b"t"]
    assert sorted([call async for call, _ in client.sessions()]) == sorted(CALLS)
    await client.forget_tasks(set(CALLS))
    await client.close()


async def work_at_a_task(url: str) -> None:
    """From asking to its end, with a look through the camera: all its keys lie on one node."""
    here = TaskLine(parse(url), Login(), NAMESPACE, "w1")
    order = Order(key=f"{CALLS[0]}.1-ab", call=CALLS[0], task="1-ab", node="n1", turn=1, request="3 plus 4")
    try:
        await here.make_group()
        assert await here.ask(order, 60_000) == "asked"
        ((entry, key),) = await here.take("w1", 1)
        taken = await here.begin("w1", entry, key)
        assert taken is not None and taken.order == order
        number = await here.look(order, 2)
        assert await here.show(order.key, Still(number, jpeg=b"picture"))
        assert await here.still(order.key) == Still(number, jpeg=b"picture")
        assert await here.publish(taken, "w1", "done", "Seven.", said_bytes=0)
        news = [told for _, told in await here.news("n1", "0-0")]
        assert [told.state for told in news if told is not None][-1] == "done"
    finally:
        await here.close()


def test_a_cluster_of_three_one_of_which_dies(program: str, folder: Path) -> None:
    options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
    options += ["--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"]
    masters = [StateServer(program, folder / str(n), free_port(), options) for n in range(3)]

    async def story() -> None:
        looks = [master.look() for master in masters]
        for number, look in enumerate(looks):
            look.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", 16_384 * number // 3, 16_384 * (number + 1) // 3 - 1
            )
            look.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for master in masters[1:]:
            looks[0].execute_command("CLUSTER", "MEET", "127.0.0.1", master.port)
        await until(
            lambda: (
                all("cluster_state:ok" in str(look.execute_command("CLUSTER", "INFO")) for look in looks)
                and all(
                    str(look.execute_command("CLUSTER", "NODES")).count("connected") >= 3 for look in looks
                )
            ),
            "the cluster came up",
        )
        url = f"cluster://127.0.0.1:{masters[0].port},127.0.0.1:{masters[1].port}"
        async with node(url, times=Times(lease_ms=20_000, renew_ms=QUICK.renew_ms)) as here:
            await tell(here)
            sizes = [look.dbsize() for look in looks]
            assert all(sizes) and sum(sizes) == 5 * len(CALLS)  # lease, fence, session, transcript, cdr
            masters[2].kill()
            for call in CALLS:
                here.store.say(call, Line(5, "model", "on"))
            await until(lambda: here.counters.disconnects >= 1)
            masters[2].start()
            await here.delivered()
            assert here.counters.dropped == 0 and here.counters.fencing_refusals == 0
        await work_at_a_task(url)
        await ask_of_all(Client(parse(url), Login(), NAMESPACE, "n1"))
        found = 0
        for master in masters:
            with master.look() as look:
                for call in CALLS:
                    slot = look.execute_command("CLUSTER", "KEYSLOT", f"{NAMESPACE}:{{{call}}}:cdr")
                    if look.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot):
                        found += 1
                        assert value(look, "session", call) is not None
                        assert entries(look, call) == [*((turn, 1) for turn in range(5)), (5, 1001)]
            master.check_that_all_ends()
        assert found == len(CALLS)

    with started(*masters):
        play(story())
