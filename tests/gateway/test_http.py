"""The HTTP server itself: what is no HTTP is answered and counted, and writes no log."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from gateway import control
from gateway.api.guard import GuardCounters
from gateway.http import ClientFaults
from tests.support.web_worker import visit

RUBBISH = (
    b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/9\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
)


def test_no_request_writes_a_page_of_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> list[bytes]:
        statuses = []
        async with visit(tmp_path) as here:
            port = int(here.site.url.rpartition(":")[2])
            for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):  # alone, or as the second
                for rubbish in RUBBISH:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(first + rubbish)
                    answers = await asyncio.wait_for(reader.read(), 5)
                    statuses.append(re.findall(rb"HTTP/1.\d (\d{3}) ", answers)[-1])
                    writer.close()
            async with here.http.get("/metrics") as metrics:
                counted = await metrics.text()
            assert "microturn_http_server_requests_malformed_total 8.0" in counted
        return statuses

    with caplog.at_level(logging.DEBUG):
        assert asyncio.run(story()) == [b"400"] * 8
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


def test_a_fault_of_ours_is_told() -> None:
    faults = ClientFaults(GuardCounters())

    def told(level: int, wrong: BaseException | None) -> bool:
        info = (type(wrong), wrong, None) if wrong is not None else None
        return faults.filter(logging.LogRecord("x", level, "x", 1, "x", (), info))

    assert told(logging.ERROR, KeyError("ours")) and told(logging.WARNING, None)
    assert not told(logging.DEBUG, None) and not told(logging.ERROR, BadHttpMessage("theirs"))


def test_a_further_engine_that_is_away_is_told_and_does_not_make_it_unready(tmp_path: Path) -> None:
    async def story() -> None:
        engines = {name: {"socket": str(tmp_path / name)} for name in ("lab", "away")}
        async with visit(tmp_path, engines=engines) as here:
            told = control.Attachable(True, "lab")
            here.pool.hear("web-0", told)
            async with here.http.get("/readyz") as ready:
                assert ready.status == 200 and (await ready.text()).splitlines() == [
                    "ready", "engine lab: ready", "engine away: no model server: its calls are refused",
                ]  # fmt: skip
            here.pool.hear("web-0", control.Attachable(False))
            async with here.http.get("/readyz") as ready:
                assert ready.status == 503 and (await ready.text()).splitlines()[:2] == [
                    "not ready", "engine lab: ready",
                ]  # fmt: skip
            async with here.http.get("/metrics") as metrics:
                lines = (await metrics.text()).splitlines()
            assert 'microturn_model_up{engine="away"} 0.0' in lines
            assert 'microturn_predicted_free_calls{engine="away"} 0.0' in lines

    asyncio.run(story())
