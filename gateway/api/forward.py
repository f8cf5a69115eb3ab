"""A browser's request that another gateway is to answer: asked there for it, with media straight between the two.

A redirect (RFC 9725 section 4.5) would be shorter. But the page may ask its own origin alone, browsers drop the
token when they follow to another, and the gateways may stand behind one address: so the request is passed on, and
whoever asks need not know that there is more than one.
"""

from __future__ import annotations

import time
from typing import Final

import aiohttp
import structlog
from aiohttp import web

from gateway.api.client import CLIENT, prove
from gateway.api.problem import Problem
from gateway.cluster.node import Node

log = structlog.get_logger()

HOP: Final = "Microturn-Hop"
"""In a request that was passed on: it is answered where it is."""
PATIENCE_S: Final = 8.0
"""A worker is given 5 s (`webrtc.pool.ANSWER_S`)."""
_ASKED: Final = (
    "Authorization", "Content-Type", "If-Match", "Microturn-Resume", "Idempotency-Key", "Origin",
    "traceparent",
)  # fmt: skip
_TOLD: Final = (
    "Location", "ETag", "Accept-Patch", "Microturn-Resume", "Cache-Control", "Retry-After", "WWW-Authenticate",
    "Content-Type", "Idempotency-Replayed",
)  # fmt: skip


class Forward:
    """Of one main process, the gateway `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, node: Node, request: web.Request, body: str = "", number: str = "") -> web.Response:
        """Its answer, as the caller gets it; `Problem` when there is none. `number` is the request's id."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
        headers[HOP] = self._name
        headers |= {"X-Request-Id": number} if number else {}
        if node.key and request.remote:
            headers[CLIENT] = prove(node.key, request.method, request.path, request.remote, time.time())
        try:
            async with self._session.request(
                request.method, node.url.rstrip("/") + request.path_qs, data=body or None, headers=headers,
                allow_redirects=False,
            ) as answer:  # fmt: skip
                told = await answer.read()
                response = web.Response(body=told or None, status=answer.status)
                for name in _TOLD:
                    if name in answer.headers:
                        response.headers[name] = answer.headers[name]
                for link in answer.headers.getall("Link", ()):
                    response.headers.add("Link", link)
                return response
        except (aiohttp.ClientError, TimeoutError) as wrong:
            log.warning("another gateway does not answer", node=node.node, reason=type(wrong).__name__)
            why = "the gateway with this call does not answer: it may be back in a moment"
            raise Problem(503, "not-ready", why, {"Retry-After": "1"}) from None

    async def close(self) -> None:
        """Its connections."""
        if self._session is not None:
            await self._session.close()
