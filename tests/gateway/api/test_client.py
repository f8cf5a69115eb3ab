"""A client's address, passed on with a proof."""

from __future__ import annotations

import pytest

from gateway.api.client import FRESH_S, prove, proven

KEY, NOW_S = "k" * 64, 1_790_000_000.0
GIVEN = ("POST", "/whip")


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::1", "fe80::1%eth0"])
def test_what_a_gateway_says_is_believed_for_a_minute(address: str) -> None:
    said = prove(KEY, *GIVEN, address, NOW_S)
    for apart_s, believed in ((0, address), (FRESH_S - 1, address), (-FRESH_S, address), (FRESH_S + 2, "")):
        assert proven(KEY, *GIVEN, said, NOW_S + apart_s) == believed


SAID = prove(KEY, *GIVEN, "203.0.113.7", NOW_S)


@pytest.mark.parametrize(
    ("key", "method", "path", "said"),
    [
        ("x" * 64, *GIVEN, SAID),
        ("", *GIVEN, prove("", *GIVEN, "203.0.113.7", NOW_S)),
        (KEY, "PATCH", "/whip", SAID),
        (KEY, "POST", "/whip/other", SAID),
        (KEY, *GIVEN, SAID.replace("203.0.113.7", "203.0.113.8")),
        (KEY, *GIVEN, SAID.replace("1790000000", "1790000001")),
        (KEY, *GIVEN, SAID[:-1]),
        (KEY, *GIVEN, "203.0.113.7"),
        (KEY, *GIVEN, "\udcff ü " + SAID.encode().decode("latin-1")),
        (KEY, *GIVEN, ""),
        (KEY, *GIVEN, prove(KEY, *GIVEN, "somebody", NOW_S)),
    ],
)
def test_nothing_else_is(key: str, method: str, path: str, said: str) -> None:
    assert proven(key, method, path, said, NOW_S) == ""
