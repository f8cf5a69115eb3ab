"""What a gateway says of itself to the others, as it lies in Redis: JSON, typed at the edge."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import msgspec

from gateway.reading import reader


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """One gateway, as of its last announcement."""

    node: str
    host: str
    """Of the machine: an address of loopback is good there only."""
    url: str = ""
    """Where other gateways reach its HTTP; empty when they cannot."""
    sip: str = ""
    """Where callers reach its SIP."""
    ready: bool = False
    draining: bool = False
    slots_free: int = 0
    """Rows of its slot table that a new call could have."""
    sip_free: int = 0
    web_free: int = 0
    """Calls that its workers, and the slot table, have room for."""
    engines: dict[str, int] = {}
    """Browser calls that its workers have room for, by further engine that has a model server there."""
    step_predicted_ns: int = 0
    """Of its model server: a step of a full phase group, by the 99th percentile."""
    step_limit_ns: int = 0
    """What such a step may take."""
    key: str = ""
    """Proves to it what others say of a client (`api/client.py`). For gateways alone: `GET /nodes` has none."""

    def room_for_browsers(self, engine: str = "") -> int:
        """Browser calls of that engine that would be taken there."""
        return 0 if self.draining else self.engines.get(engine, 0) if engine else self.web_free

    def is_reachable_from(self, host: str) -> bool:
        """Whether a gateway on that machine can ask it."""
        return bool(self.url) and (self.host == host or not is_loopback(self.url))


def is_loopback(url: str) -> bool:
    """Whether a URL means the machine that uses it."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


encode = msgspec.json.encode
decode = reader(msgspec.json.Decoder(Node).decode)
