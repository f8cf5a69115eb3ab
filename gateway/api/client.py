"""Whose request another gateway has passed on to us: the client's address, with a proof that a gateway says so.

    Microturn-Client: 203.0.113.7 1790000000 5f2b...    address, Unix time, HMAC-SHA256 of them, method and path

Its key is the asked gateway's own, made anew at each start and told in its announcement: whoever can read that is
one of the gateways that share the Redis. What nobody has proved is not believed: it counts as its sender's own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import Final

CLIENT: Final = "Microturn-Client"
FRESH_S: Final = 60.0
"""Clocks of gateways may differ by so much, as for tokens."""


def prove(key: str, method: str, path: str, address: str, now_s: float) -> str:
    """The header's value."""
    told = f"{address} {int(now_s)}"
    return f"{told} {_mark(key, method, path, told)}"


def proven(key: str, method: str, path: str, value: str, now_s: float) -> str:
    """The client's address; empty when this proves none."""
    told, _, mark = value.rpartition(" ")
    address, _, unix_s = told.partition(" ")
    if not key or not hmac.compare_digest(
        mark.encode(errors="replace"), _mark(key, method, path, told).encode()
    ):
        return ""
    try:
        ipaddress.ip_address(address.partition("%")[0])
        return address if abs(int(unix_s) - now_s) <= FRESH_S else ""
    except ValueError:
        return ""


def _mark(key: str, method: str, path: str, told: str) -> str:
    return hmac.new(
        key.encode(), f"{method} {path} {told}".encode(errors="replace"), hashlib.sha256
    ).hexdigest()
