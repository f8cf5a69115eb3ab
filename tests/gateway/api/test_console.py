"""The page is served with what browsers need to trust it, and nothing else of the disk is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from gateway.api import console
from tests.support.web_worker import visit


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "console" / "parts").mkdir(parents=True)
    (tmp_path / "console" / "index.html").write_text("<!doctype html>page")
    (tmp_path / "console" / "parts" / "call.js").write_text("export const a = 1;")
    (tmp_path / "console" / "notes.txt").write_text("not served")
    (tmp_path / "secret.html").write_text("not below it")
    return tmp_path / "console"


def serve(directory: Path, *asks: tuple[str, dict[str, str]]) -> list[tuple[int, Mapping[str, str], bytes]]:
    async def story() -> list[tuple[int, Mapping[str, str], bytes]]:
        app = web.Application()
        app.add_routes(console.routes(console.read_pages(directory)))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        got = []
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as http:
            for path, headers in asks:
                async with http.get(aiohttp.client.URL(path, encoded=True), headers=headers) as answer:
                    got.append((answer.status, answer.headers, await answer.read()))
        await runner.cleanup()
        return got

    return asyncio.run(story())


def test_the_page_and_its_modules(directory: Path) -> None:
    index, same, module = serve(
        directory, ("/", {}), ("/console/index.html", {}), ("/console/parts/call.js", {})
    )
    assert index[0] == 200 and index[2] == same[2] == b"<!doctype html>page"
    assert index[1]["Content-Type"] == "text/html; charset=utf-8"
    assert module[1]["Content-Type"] == "text/javascript; charset=utf-8"
    for _, headers, _ in (index, module):
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "camera=(self)" in headers["Permissions-Policy"]


def test_operators_have_their_page_where_no_browser_may_call() -> None:
    pages = console.read_pages()
    assert {"/", "/console/figures", "/console/figures.html", "/console/call.js"} <= set(pages)
    left = console.of_operators(pages)
    assert set(pages) - set(left) == {"/", "/console/index.html"}
    assert [route.path for route in console.routes(left)] == ["/console/{path:.*}"]


def test_a_page_that_is_known_is_not_sent_again(directory: Path) -> None:
    first = serve(directory, ("/", {}))[0]
    again = serve(directory, ("/", {"If-None-Match": first[1]["ETag"]}))[0]
    assert (again[0], again[2]) == (304, b"")


def test_nothing_else_is_served(directory: Path) -> None:
    up = quote("../", safe="")
    paths = [
        "/console/notes.txt", "/console/", "/console/../secret.html", f"/console/{up}secret.html",
        "/console/..%2f..%2f..%2f..%2fetc/passwd", "/console//etc/passwd", "/console/%00", "/console/parts",
    ]  # fmt: skip
    assert [status for status, _, _ in serve(directory, *((path, {}) for path in paths))] == [404] * len(
        paths
    )


def test_the_gateway_serves_its_own_page(tmp_path: Path) -> None:
    if not (console.DIRECTORY / "index.html").is_file():
        pytest.skip("gateway/console/index.html is not here")

    async def story() -> None:
        async with visit(tmp_path) as here:
            page = await here.http.get("/")
            assert page.status == 200 and page.content_type == "text/html"
            assert (await here.http.get("/console/index.html")).status == 200

    asyncio.run(story())
