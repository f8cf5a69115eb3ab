"""Bearer tokens of the HTTP interface: JWT (RFC 7519) signed with HS256 and nothing else.

A token says who calls (`sub`), that it is for us (`aud`), what it allows (`scope`, space-separated) and until
when (`exp`, required). The answers to a request without a good one are RFC 6750's (section 3).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import jwt

AUDIENCE: Final = "microturn"
SCOPE: Final = "call"
"""Of browser calls; those of `/v1` are in `api/v1/operations.py`."""
LEEWAY_S: Final = 5
"""For clocks that differ, of issuer and gateway."""


class Unauthorised(Exception):
    """Why a request may not go on: the status, and the `WWW-Authenticate` that says so."""

    def __init__(self, status: int, detail: str, error: str = "", scope: str = SCOPE) -> None:
        super().__init__(detail)
        self.status, self.detail, self.error, self.scope = status, detail, error, scope

    @property
    def challenge(self) -> str:
        """RFC 6750 section 3; without `error` when no token was sent at all (3.1)."""
        parts = ['realm="microturn"']
        if self.error:
            parts += [f'error="{self.error}"', f'error_description="{self.detail}"']
        if self.error == "insufficient_scope":
            parts.append(f'scope="{self.scope}"')
        return "Bearer " + ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose token it is, by its own word."""

    name: str = ""
    """`sub`."""
    tenant: str = ""


def mint(secret: str, name: str, seconds: int, scope: str = SCOPE, tenant: str = "") -> str:
    """A token for `name`, of a tenant, that is good from now on, for so many seconds."""
    now_s = int(time.time())
    claims = {"sub": name, "aud": AUDIENCE, "scope": scope, "iat": now_s, "exp": now_s + seconds}
    claims |= {"tenant": tenant} if tenant else {}
    return jwt.encode(claims, secret, algorithm="HS256")


def check(secret: str, authorization: str | None, needs: str = SCOPE) -> Holder:
    """Who is behind an Authorization header that has to allow so much; raises `Unauthorised`."""
    if authorization is None:
        raise Unauthorised(401, "send Authorization: Bearer with a token")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorised(401, "the Authorization header has no Bearer token", "invalid_token")
    claims = _claims(secret, token.strip())
    scope = claims.get("scope")
    if not isinstance(scope, str) or needs not in scope.split():
        raise Unauthorised(
            403, f"the token does not allow it: scope {needs} is missing", "insufficient_scope", needs
        )
    return Holder(str(claims.get("sub", "")), str(claims.get("tenant", "")))


def _claims(secret: str, token: str) -> dict[str, object]:
    try:
        claims: dict[str, object] = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            audience=AUDIENCE,
            leeway=LEEWAY_S,
            options={"require": ["exp", "aud"]},
        )
    except jwt.PyJWTError as wrong:
        raise Unauthorised(401, _told(wrong), "invalid_token") from None
    return claims


def _told(wrong: jwt.PyJWTError) -> str:
    """For the caller: never the library's own words, which may quote what was sent."""
    match wrong:
        case jwt.ExpiredSignatureError():
            return "the token has expired"
        case jwt.ImmatureSignatureError():
            return "the token is not valid yet"
        case jwt.InvalidAudienceError():
            return f"the token is not for {AUDIENCE}"
        case jwt.MissingRequiredClaimError():
            return "the token lacks exp or aud"
        case jwt.InvalidAlgorithmError():
            return "the token is not signed with HS256"
        case jwt.InvalidSignatureError():
            return "the signature of the token is wrong"
        case _:
            return "the token is malformed"
