"""Where Redis or Valkey is: one URL, checked at the start.

    redis://HOST:PORT/DB                      one server; rediss:// with TLS
    unix:///PATH?db=DB                        one server on this machine
    sentinel://HOST:PORT,HOST:PORT/MASTER     the master that Sentinel names; sentinels:// with TLS
    cluster://HOST:PORT,HOST:PORT             Redis Cluster, any of its nodes; clusters:// with TLS

User and password are settings of their own: a URL stands in process lists and logs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qs, urlsplit

Kind = Literal["server", "unix", "sentinel", "cluster"]
_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("unix", False),
    "sentinel": ("sentinel", False),
    "sentinels": ("sentinel", True),
    "cluster": ("cluster", False),
    "clusters": ("cluster", True),
}
_PORTS: Final[dict[Kind, int]] = {"server": 6379, "unix": 0, "sentinel": 26379, "cluster": 6379}
_NODE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_MASTER = re.compile(r"[A-Za-z0-9._-]+")
MOST_PATH_BYTES: Final = 107
"""sockaddr_un (unix(7)), less the zero at the end."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says."""

    kind: Kind
    tls: bool = False
    nodes: tuple[tuple[str, int], ...] = ()
    """Host and port: the server, the sentinels, or some nodes of the cluster."""
    path: str = ""
    master: str = ""
    db: int = 0

    def __str__(self) -> str:
        where = ", ".join(f"{host}:{port}" for host, port in self.nodes) or self.path
        return f"{self.kind} {where}{' with TLS' if self.tls else ''}"


def parse(url: str) -> Address:
    """`ValueError` in words for the operator, in which nothing stands of what may be a password."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in _SCHEMES:
        raise ValueError(
            f"redis has a URL of scheme {scheme[:20]!r}: expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB, "
            "unix:///PATH, sentinel://HOST:PORT,HOST:PORT/MASTER or cluster://HOST:PORT,HOST:PORT"
        )
    if "@" in rest:
        raise ValueError(
            "redis has a user or password in its URL, which others can see: "
            "give them as redis_user and redis_password (MICROTURN_REDIS_PASSWORD)"
        )
    kind, tls = _SCHEMES[scheme]
    if kind == "unix":
        return _unix(url)
    places, _, path = rest.partition("/")
    nodes = tuple(_node(place, _PORTS[kind]) for place in places.split(","))
    if kind == "sentinel":
        master, _, db = path.partition("/")
        if not _MASTER.fullmatch(master):
            raise ValueError(
                f"redis = {url!r} names no master: give {scheme}://{places}/MASTER, as in sentinel.conf"
            )
        return Address(kind, tls, nodes, master=master, db=_db(url, db))
    if kind == "server" and len(nodes) > 1:
        raise ValueError(f"redis = {url!r} has several servers: name one, or use sentinel:// or cluster://")
    if kind == "cluster" and path.strip("0"):
        raise ValueError(f"redis = {url!r} has a database: Redis Cluster has none, leave {path!r} out")
    return Address(kind, tls, nodes, db=_db(url, path) if kind == "server" else 0)


def _unix(url: str) -> Address:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/") or len(parts.path.encode()) > MOST_PATH_BYTES:
        raise ValueError(
            f"redis = {url!r}: expected unix:///PATH of a socket, absolute, {MOST_PATH_BYTES} bytes at most"
        )
    return Address("unix", path=parts.path, db=_db(url, parse_qs(parts.query).get("db", ["0"])[0]))


def _node(place: str, port: int) -> tuple[str, int]:
    found = _NODE.fullmatch(place)
    number = int(found[2] or port) if found else 0
    if not found or not 0 < number < 65_536:
        raise ValueError(f"redis has {place[:60]!r}, which is no HOST:PORT")
    return found[1].strip("[]"), number


def _db(url: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{0,4}", text):
        raise ValueError(f"redis = {url!r}: {text!r} is no number of a database, such as 0")
    return int(text or 0)
