"""Tokens: ours pass, and nothing that only looks like ours does."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.tokens import Holder, Unauthorised, check, mint

SECRET = "a secret of at least thirty-two bytes"
NOW = int(time.time())
GOOD: dict[str, Any] = {"sub": "anna", "aud": "microturn", "scope": "call", "exp": NOW + 600}


def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm)


def unsigned(algorithm: str) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(GOOD)}."


def refusal(authorization: str | None) -> Unauthorised:
    with pytest.raises(Unauthorised) as refused:
        check(SECRET, authorization)
    return refused.value


def test_what_we_mint_passes_until_it_expires() -> None:
    assert check(SECRET, f"Bearer {mint(SECRET, 'anna', 60)}") == Holder("anna")
    assert refusal(f"Bearer {mint(SECRET, 'anna', -60)}").detail == "the token has expired"


def test_scopes_and_audiences_may_be_several() -> None:
    assert check(SECRET, f"bearer {signed(scope='listen call', aud=['other', 'microturn'])}").name == "anna"
    assert check(SECRET, f"Bearer {signed(sub=None)}") == Holder()


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (signed(exp=NOW - 60), "expired"),
        (signed(exp=None), "lacks exp or aud"),
        (signed(aud=None), "lacks exp or aud"),
        (signed(aud="other"), "not for microturn"),
        (signed(nbf=NOW + 600), "not valid yet"),
        (signed(secret="another secret of thirty-two bytes!!"), "signature"),
        (signed()[:-4] + "AAAA", "signature"),
        (signed(secret=SECRET * 2, algorithm="HS512"), "not signed with HS256"),
        (unsigned("none"), "not signed with HS256"),
        (unsigned("None"), "not signed with HS256"),
        (unsigned("HS256"), "signature"),
        ("a.b.c", "malformed"),
        ("", "no Bearer token"),
        ("x" * 8000, "malformed"),
    ],
)
def test_a_bad_token_is_401(token: str, told: str) -> None:
    refused = refusal(f"Bearer {token}")
    assert refused.status == 401 and refused.error == "invalid_token"
    assert told in refused.detail and refused.detail in refused.challenge


def test_without_a_token_the_challenge_names_no_error() -> None:
    refused = refusal(None)
    assert (refused.status, refused.challenge) == (401, 'Bearer realm="microturn"')
    assert refusal("Basic YTpi").error == "invalid_token"


@pytest.mark.parametrize("scope", [None, "", "listen", "calls", ["call"], 5])
def test_a_token_without_the_scope_is_403(scope: object) -> None:
    refused = refusal(f"Bearer {signed(scope=scope)}")
    assert refused.status == 403 and 'error="insufficient_scope"' in refused.challenge
    assert 'scope="call"' in refused.challenge


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=300))
def test_any_header_is_refused(text: str) -> None:
    for header in (text, f"Bearer {text}", f"Bearer {signed()}{text or 'x'}".replace("call", "tall")):
        try:
            check(SECRET, header)
        except Unauthorised:
            continue
        assert not text.strip(), "only white space may be added"
