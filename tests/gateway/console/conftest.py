"""The console page, served from its folder as the gateway serves it, and a Chromium to look at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from gateway.api.console import HEADERS, read_pages
from tests.support.chromium import Chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGES = read_pages()
ELSEWHERE = "gateway.invalid"  # a name of this machine that browsers do not hold for it


class Folder(BaseHTTPRequestHandler):
    metrics = b""
    """Of /metrics; nothing: there is none."""

    def do_GET(self) -> None:  # noqa: N802, as http.server names it
        if self.path == "/metrics" and self.metrics:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.metrics)
            return
        found = PAGES.get(self.path.partition("?")[0])
        self.send_response(200 if found else 404)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", found.content_type if found else "text/plain")
        self.end_headers()
        self.wfile.write(found.body if found else b"")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The page's URL, without a gateway behind it: every call fails with 404 or 501."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Folder)
    thread = threading.Thread(target=server.serve_forever, name="console")
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    rules = f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"
    with Chromium.start(flags=[rules], viewport={"width": 1280, "height": 900}) as started:
        yield started


@pytest.fixture(scope="module")
def page(origin: str, chromium: Chromium) -> Page:
    """One page for all that only look."""
    return chromium.open(origin)
