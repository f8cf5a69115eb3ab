"""Records of calls that are over are listed by when they ended, of all gateways, and survive Redis being away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.api.tokens import mint
from gateway.state.index import CdrIndex
from tests.gateway.api.v1.test_calls import SECRET, bearer, call, told, two
from tests.gateway.state.server import StateServer, play
from tests.support.two_sites import Site

pytestmark = pytest.mark.redis


async def cdrs(here: Site, query: str = "", tenant: str = "") -> dict[str, Any]:
    answer = await here.v1("GET", f"/cdrs?{query}", Authorization=bearer("cdrs:read", tenant))
    assert answer.status == 200, answer.text
    return dict(answer.json)


async def written(*sites: Site) -> None:
    for here in sites:
        store = here.sessions.store
        await here.until(lambda store=store: not store.index.waiting and not store.gauges()["state_buffered"])


def test_records_are_listed_by_the_end_of_their_calls(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with two(server, folder, jwt_secret=SECRET, tenants={"acme": {}}) as (left, right):
            ours = {"Authorization": f"Bearer {mint(SECRET, 'anna', 600, tenant='acme')}"}
            theirs = {"Authorization": f"Bearer {mint(SECRET, 'bert', 600)}"}
            wanted = ((left, ours), (right, theirs), (left, ours))
            made = [(here, await call(here, **whose)) for here, whose in wanted]
            assert not (await cdrs(left))["cdrs"]
            for here, name in reversed(made):
                here.worker.end(name)
                await here.until(lambda here=here, name=name: name not in here.sessions)
            await written(left, right)
            names = [name for _, name in reversed(made)]
            oldest = (await cdrs(right, "order=oldest"))["cdrs"]
            assert [cdr["call"] for cdr in oldest] == names
            assert [cdr["call"] for cdr in (await cdrs(left))["cdrs"]] == names[::-1]
            assert all(cdr["ended_ms"] >= cdr["began_ms"] and cdr["reason"] == "over" for cdr in oldest)
            assert len({cdr["caller"] for cdr in oldest}) == 2 and len(oldest[0]["caller"]) == 32
            with server.look() as look:
                look.delete(f"microturn:{{{names[0]}}}:session")  # as `microturn forget` does
            assert "caller" not in (await cdrs(right, "order=oldest"))["cdrs"][0]
            for order, expected in (("oldest", names), ("newest", names[::-1])):
                seen, cursor = [], ""
                for _ in names:
                    page = await cdrs(left, f"order={order}&limit=1&cursor={cursor}")
                    seen += [cdr["call"] for cdr in page["cdrs"]]
                    cursor = page.get("next", "")
                assert seen == expected and not cursor
            mine = (await cdrs(right, "order=oldest", "acme"))["cdrs"]
            assert [cdr["call"] for cdr in mine] == [names[0], names[2]]
            assert not (await cdrs(right, "", "stranger"))["cdrs"]
            last_ms = oldest[-1]["ended_ms"]
            late = (await cdrs(left, f"since_ms={last_ms}&until_ms={last_ms}"))["cdrs"]
            assert names[-1] in [cdr["call"] for cdr in late]
            told(await left.v1("GET", "/cdrs", Authorization=bearer("calls:read")), 403, "forbidden")

    play(story())


def test_ends_of_calls_wait_for_redis_and_are_bounded(
    server: StateServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with two(server, folder) as (left, _):
            store = left.sessions.store
            for number in range(5):  # of one millisecond: the name tells them apart
                store.index.add(f"b-000000000000000{number}", 1, 1_000, "")
            await written(left)
            page = await store.index.page("", 0, 2_000, "oldest", (1_000, "b-0000000000000001 1"), 2)
            assert page is not None and [one.call[-1] for one in page] == ["2", "3"]
            page = await store.index.page("", 0, 2_000, "newest", (1_000, "b-0000000000000001 1"), 2)
            assert page is not None and [one.call[-1] for one in page] == ["0"]

    play(story())

    async def nobody(*_: object) -> None:
        return None

    async def bounded() -> None:
        monkeypatch.setattr("gateway.state.index.MOST_WAITING", 3)
        index = CdrIndex(nobody, "test", 60)
        for number in range(5):
            index.add(f"b-{number}", 1, number, "")
        assert not await index.flush() and index.waiting == 3 and index.dropped == 2
        assert await index.page("", 0, 9, "oldest", None, 1) is None

    play(bounded())
