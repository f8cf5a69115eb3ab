"""What is wrong with a request, said in `application/problem+json` (RFC 9457).

`code` is an extension member: one word that a program may compare, where `detail` is for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web


class Problem(Exception):
    """Ends the handling of a request with this status."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})
        self.request = ""
        """The request's id, where it has one."""

    def response(self) -> web.Response:
        """The answer to the request."""
        title = HTTPStatus(self.status).phrase
        body = {"type": "about:blank", "title": title, "status": self.status}
        body |= {"detail": self.detail, "code": self.code} | (
            {"request": self.request} if self.request else {}
        )
        headers = {"Cache-Control": "no-store", **self.headers}
        return web.Response(
            body=msgspec.json.encode(body),
            status=self.status,
            content_type="application/problem+json",
            headers=headers,
        )
