"""`microturn forget`: what is kept of one caller goes, and nothing of anybody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cluster.parties import Party, pseudonym
from gateway.state.records import Line, Task
from gateway.state.sessions import Sessions
from tests.gateway.state.server import NAMESPACE, Node, StateServer, node, play

pytestmark = pytest.mark.redis

SECRET = "k" * 20
NUMBER = "+49 30 1234567"
ANNA = Party("acme", "", pseudonym("+49301234567", SECRET))
BERT = Party("acme", "", pseudonym("bert", SECRET))
OVER, ALIVE, OTHER = (f"b-{n:016x}" for n in (1, 2, 3))


def forget(server: StateServer, caller: str, secret: str = SECRET) -> Any:
    environment = {
        "MICROTURN_REDIS": server.url,
        "MICROTURN_REDIS_NAMESPACE": NAMESPACE,
        "MICROTURN_CALLER_SECRET": secret,
    }
    return CliRunner().invoke(app, ["forget", caller], env=environment)


def talk(sessions: Sessions, call: str, party: Party) -> None:
    sessions.begin(call, "webrtc", "web-0", party=party)
    sessions.said(call, Line(1, "caller", "my card is 4929"))
    sessions.store.put_task(call, Task("k", "asked", 1, 99, request="card 4929"))


def parts(server: StateServer, call: str) -> set[str]:
    with server.look() as look:
        return {name.decode().rpartition(":")[2] for name in look.scan_iter(f"{NAMESPACE}:{{{call}}}:*")}


def sessions_of(here: Node) -> Sessions:
    return Sessions(here.store, "n1", lambda work: work.close())


def test_all_calls_of_a_caller_go_at_once_or_when_they_end(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            sessions = sessions_of(here)
            for call, party in ((OVER, ANNA), (ALIVE, ANNA), (OTHER, BERT)):
                talk(sessions, call, party)
            sessions.end(OVER)
            await here.delivered()
            wrong = await asyncio.to_thread(forget, server, NUMBER, "another key")
            assert wrong.exit_code == 1 and "calls forgotten: 0" in wrong.output
            done = await asyncio.to_thread(forget, server, NUMBER)
            assert done.exit_code == 0, done.output
            assert "calls forgotten: 1; calls that live, forgotten when they end: 1" in done.output
            assert parts(server, OVER) == {"fence", "forget", "cdr"}
            assert "transcript" in parts(server, ALIVE)
            sessions.said(ALIVE, Line(2, "caller", "and on"))
            sessions.end(ALIVE)
            await here.delivered()
            assert parts(server, ALIVE) == {"fence", "forget", "cdr"}
            assert parts(server, OTHER) >= {"session", "transcript", "tasks", "lease"}
            again = await asyncio.to_thread(forget, server, "tel:+49301234567")
            assert again.exit_code == 1

    play(story())


def test_one_call_is_forgotten_by_its_name_and_its_tasks_with_it(server: StateServer) -> None:
    async def story() -> None:
        async with node(server.url) as here:
            sessions = sessions_of(here)
            for call in (OVER, OTHER):
                talk(sessions, call, BERT)
                sessions.end(call)
            await here.delivered()
            with server.look() as look:
                for call in (OVER, OTHER):
                    look.hset(f"{NAMESPACE}:{{tasks}}:task:{call}.1", mapping={"call": call, "order": "4929"})
                    look.expire(f"{NAMESPACE}:{{tasks}}:task:{call}.1", 60)
                    look.rpush(f"{NAMESPACE}:{{tasks}}:still:{call}.1", "a picture")
                    look.expire(f"{NAMESPACE}:{{tasks}}:still:{call}.1", 60)
                    look.xadd(f"{NAMESPACE}:{{tasks}}:news:n1", {"call": call, "text": "4929"})
                look.expire(f"{NAMESPACE}:{{tasks}}:news:n1", 60)
            assert (await asyncio.to_thread(forget, server, OVER)).exit_code == 0
            assert "session" not in parts(server, OVER) and "session" in parts(server, OTHER)
            with server.look() as look:
                (task,) = look.scan_iter(f"{NAMESPACE}:{{tasks}}:task:*")
                (still,) = look.scan_iter(f"{NAMESPACE}:{{tasks}}:still:*")
                news: Any = look.xrange(f"{NAMESPACE}:{{tasks}}:news:n1")
            assert OTHER in task.decode() and OTHER in still.decode()
            assert [fields[b"call"] for _, fields in news] == [OTHER.encode()]

    play(story())


def test_without_a_server_it_says_what_to_do(tmp_path: Any) -> None:
    environment = {"MICROTURN_REDIS": "auto", "MICROTURN_RUN_DIR": str(tmp_path)}
    told = CliRunner().invoke(app, ["forget", "anna"], env=environment)
    assert told.exit_code == 2 and "--redis" in told.output
    environment = {"MICROTURN_REDIS": f"unix://{tmp_path}/none"}
    told = CliRunner().invoke(app, ["forget", "anna"], env=environment)
    assert told.exit_code == 2 and "does not do as it is asked" in told.output
