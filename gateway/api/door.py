"""Who may pass: bearer tokens, the open door of a machine of one's own, and pages of other origins."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from gateway.api import tokens
from gateway.api.problem import Problem

_EXPOSED: Final = (
    "Location, ETag, Link, Accept-Patch, Accept-Post, Microturn-Resume, Retry-After, WWW-Authenticate"
)
_ASKED: Final = "Authorization, Content-Type, If-Match, Microturn-Resume"


@dataclass(frozen=True, slots=True)
class Door:
    """Without a secret only this machine may come in, and only by a name of this machine."""

    jwt_secret: str = field(default="", repr=False)
    web_origins: Collection[str] = ()

    def admit(
        self, request: web.Request, needs: str = tokens.SCOPE, authorization: str | None = None
    ) -> tokens.Holder:
        """Who calls, as far as it is told; raises `Problem` with 401 or 403. A token has to allow what it
        needs; it is in the header `Authorization`, or in what is given for it."""
        if not self.jwt_secret:
            self._check_host(request)
            return tokens.Holder()
        try:
            told = authorization or request.headers.get("Authorization")
            return tokens.check(self.jwt_secret, told, needs)
        except tokens.Unauthorised as wrong:
            code = "forbidden" if wrong.status == 403 else "unauthorised"
            raise Problem(wrong.status, code, wrong.detail, {"WWW-Authenticate": wrong.challenge}) from None

    def check_origin(self, request: web.Request) -> None:
        """Without tokens a page of elsewhere could have a browser on this machine ask for it (CSRF): refused."""
        origin = request.headers.get("Origin")
        if self.jwt_secret or origin is None or origin in self.web_origins:
            return
        if origin != f"{request.scheme}://{request.host}":
            raise Problem(403, "forbidden", f"a page of {origin[:80]!r} may not ask: list it in web_origins")

    def _check_host(self, request: web.Request) -> None:
        """A page of elsewhere whose name was rebound to 127.0.0.1 is still told by the name that it asked for."""
        try:
            name = request.url.host or ""
        except ValueError:
            name = request.headers.get("Host", "")
        if name != "localhost" and not name.endswith(".localhost") and not _is_loopback(name):
            raise Problem(
                403,
                "forbidden",
                f"without tokens calls are for this machine alone, by localhost or 127.0.0.1, not {name[:80]!r}: "
                "set jwt_secret to take others",
            )

    def cors(self, request: web.Request, allowed: str) -> Mapping[str, str]:
        """Headers for a page of another origin that was configured (Fetch section 3.3); none for others."""
        origin = request.headers.get("Origin", "")
        vary = {"Vary": "Origin"} if self.web_origins else {}
        if origin not in self.web_origins:
            return vary
        headers = {**vary, "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED}
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            headers["Access-Control-Allow-Methods"] = allowed
            headers["Access-Control-Allow-Headers"] = _ASKED
            headers["Access-Control-Max-Age"] = "600"
        return headers


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
