"""The pages: files of `gateway/console/`, read once at the start. What is not in that table is not there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from gateway.api.problem import Problem

DIRECTORY: Final = Path(__file__).parents[1] / "console"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=(), display-capture=(), usb=(), serial=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file."""

    body: bytes
    content_type: str
    etag: str


def read_pages(directory: Path = DIRECTORY) -> dict[str, Page]:
    """Path in the URL -> file: `/` is index.html, others stand under `/console/`; figures without `.html`, too."""
    pages: dict[str, Page] = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file() and file.suffix in TYPES:
            body = file.read_bytes()
            page = Page(body, TYPES[file.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
            pages[f"/console/{file.relative_to(directory).as_posix()}"] = page
    if "/console/index.html" in pages:
        pages["/"] = pages["/console/index.html"]
    pages |= {
        path.removesuffix(".html"): page for path, page in pages.items() if path.endswith("/figures.html")
    }
    return pages


def of_operators(pages: dict[str, Page]) -> dict[str, Page]:
    """Without the page that makes calls."""
    return {path: page for path, page in pages.items() if path not in ("/", "/console/index.html")}


def routes(pages: dict[str, Page]) -> list[web.RouteDef]:
    """GET and HEAD of every page."""

    async def show(request: web.Request) -> web.Response:
        page = pages.get(request.path)
        if page is None:
            return Problem(404, "no-such-page", f"there is no {request.path[:80]}").response()
        headers = {**HEADERS, "ETag": page.etag}
        if page.etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=page.body, headers={**headers, "Content-Type": page.content_type})

    first = [web.get("/", show)] if "/" in pages else []
    return [*first, web.get("/console/{path:.*}", show)]
