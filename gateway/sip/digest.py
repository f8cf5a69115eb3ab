# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP digest as SIP has it (RFC 3261 22, RFC 7616, RFC 8760), both sides: who is asked, and who asks.

Sans-IO: time and randomness are arguments.  MD5, SHA-256 and SHA-512-256, without qop or with `auth`; where several
challenges come, the first that we know is answered (RFC 8760 2.4).  The asking side keeps nothing about nonces that
were not used: a nonce is a keyed hash of its time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.sip.header import Header
from gateway.sip.timers import SECOND_NS

ALGORITHMS: Final = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
OFFERED: Final = ("MD5", "SHA-256")
"""What we ask for. RFC 8760 2.4 would have the better first, but there are those who read the first challenge alone
(sipp 3.6.1 does) and know no more than MD5; who chooses takes the better of the two."""
NONCE_NS: Final = 60 * SECOND_NS
"""So long a nonce of ours is good; after that it is `stale`, and the peer tries again by itself."""
MOST_COUNTS: Final = 4096
"""Nonces whose counts are kept against replay; the oldest is forgotten."""
_PARAM = re.compile(r'([A-Za-z0-9-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(rb"\s*digest\s+", re.I)
_NONCE = re.compile(r"([0-9a-f]{16})([0-9a-f]{32})")
MOST_BYTES: Final = 2_000


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are towards a peer, or a peer towards us."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a peer asks for (WWW-Authenticate, Proxy-Authenticate)."""

    realm: str
    nonce: str
    algorithm: str = "MD5"
    qop: str = ""
    """`auth`, or empty where none was asked for."""
    opaque: str | None = None
    stale: bool = False


def parameters(value: bytes) -> dict[str, str]:
    """Of a `Digest ...` header's value, names in small letters; empty for what is none.  Never raises."""
    match = _SCHEME.match(value)
    if match is None or len(value) > MOST_BYTES:
        return {}
    text = value[match.end() :].decode("utf-8", "replace")
    return {
        m[1].lower(): re.sub(r"\\(.)", r"\1", m[2]) if m[2] is not None else m[3]
        for m in _PARAM.finditer(text)
    }


def challenge_of(values: Iterable[bytes]) -> Challenge | None:
    """The first of these header values that we can answer; None without one."""
    for value in values:
        told = parameters(value)
        algorithm = told.get("algorithm", "MD5").upper()
        qops = [qop.strip().lower() for qop in told.get("qop", "").split(",") if qop.strip()]
        if "nonce" not in told or "realm" not in told or algorithm not in ALGORITHMS:
            continue
        if qops and "auth" not in qops:
            continue
        return Challenge(
            told["realm"], told["nonce"], algorithm, "auth" if qops else "", told.get("opaque"),
            told.get("stale", "").lower() == "true",
        )  # fmt: skip
    return None


def response_of(
    algorithm: str, login: Login, realm: str, nonce: str, method: str, uri: str, qop: str = "", nc: str = "",
    cnonce: str = "",
) -> str:  # fmt: skip
    """RFC 7616 3.4.1 for `qop` auth or none; `algorithm` is one of `ALGORITHMS`."""
    first = _hash(algorithm, f"{login.user}:{realm}:{login.password}")
    second = _hash(algorithm, f"{method}:{uri}")
    middle = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    return _hash(algorithm, f"{first}:{middle}:{second}")


def authorization(
    challenge: Challenge, login: Login, method: str, uri: str, nc: int = 1, cnonce: str = "0"
) -> bytes:
    """Value of Authorization or Proxy-Authorization.  `nc` counts the requests with this nonce, from 1."""
    count = f"{nc:08x}"
    parts = [
        f"username={_quoted(login.user)}", f"realm={_quoted(challenge.realm)}",
        f"nonce={_quoted(challenge.nonce)}", f"uri={_quoted(uri)}",
    ]  # fmt: skip
    answer = response_of(
        challenge.algorithm,
        login,
        challenge.realm,
        challenge.nonce,
        method,
        uri,
        challenge.qop,
        count,
        cnonce,
    )
    parts.append(f'response="{answer}"')
    parts.append(f"algorithm={challenge.algorithm}")
    if challenge.qop:
        parts += [f"qop={challenge.qop}", f"nc={count}", f"cnonce={_quoted(cnonce)}"]
    if challenge.opaque is not None:
        parts.append(f"opaque={_quoted(challenge.opaque)}")
    return b"Digest " + ", ".join(parts).encode()


def answered_anew(value: bytes, login: Login, method: str, uri: str) -> bytes | None:
    """An Authorization that somebody else wrote to the same challenge, with our login and this `uri`.

    None when it is no digest that we know.  Its nonce, count and cnonce stay.
    """
    told = parameters(value)
    algorithm = told.get("algorithm", "MD5").upper()
    if algorithm not in ALGORITHMS or not all(name in told for name in ("realm", "nonce")):
        return None
    nc = told.get("nc", "1")
    if not re.fullmatch(r"[0-9a-fA-F]{1,8}", nc):
        return None
    challenge = Challenge(told["realm"], told["nonce"], algorithm, told.get("qop", ""), told.get("opaque"))
    return authorization(challenge, login, method, uri, int(nc, 16), told.get("cnonce", "0"))


class Doorman:
    """The side that asks: which of the known peers a request comes from.

    A nonce is its time and a keyed hash of it, good for `NONCE_NS`; counts (nc) of a nonce only grow, so what was
    heard on the way cannot be sent again.
    """

    def __init__(self, key: bytes, realm: str, peers: Mapping[str, tuple[str, Login]]) -> None:
        """`peers`: user -> name of the trunk, login."""
        self._key, self._realm, self._peers = key, realm, dict(peers)
        self._counts: OrderedDict[str, int] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._peers)

    def challenges(self, now_ns: int, stale: bool = False) -> tuple[Header, ...]:
        """WWW-Authenticate for a 401, one for each algorithm."""
        nonce = self._nonce(now_ns)
        more = ", stale=true" if stale else ""
        return tuple(
            Header.make(
                b"WWW-Authenticate",
                f'Digest realm="{self._realm}", nonce="{nonce}", algorithm={algorithm}, qop="auth"{more}'.encode(),
            )
            for algorithm in OFFERED
        )

    def is_stale(self, values: Iterable[bytes], method: str) -> bool:
        """Of those that `who` did not take: whether one was right but for its nonce, which is too old or was used
        up. The peer need not ask its user then."""
        return any(self._peer_of(told, method) is not None for told in map(parameters, values))

    def who(self, values: Iterable[bytes], method: str, now_ns: int) -> str | None:
        """The trunk that wrote one of these Authorizations; None for nobody that we know.  Never raises."""
        for value in values:
            told = parameters(value)
            name = self._peer_of(told, method)
            nonce = told.get("nonce", "")
            age_ns = self._age_ns(nonce, now_ns)
            fresh = name is not None and age_ns is not None and 0 <= age_ns < NONCE_NS
            if fresh and self._is_next(nonce, int(told["nc"], 16)):
                return name
        return None

    def _peer_of(self, told: dict[str, str], method: str) -> str | None:
        """Whose answer to a challenge of ours it is, however old that may be."""
        peer = self._peers.get(told.get("username", ""))
        algorithm = told.get("algorithm", "MD5").upper()
        nonce, nc = told.get("nonce", ""), told.get("nc", "")
        if peer is None or algorithm not in ALGORITHMS or told.get("realm") != self._realm:
            return None
        if self._age_ns(nonce, 0) is None:
            return None
        if told.get("qop") != "auth" or not re.fullmatch(r"[0-9a-fA-F]{8}", nc) or "uri" not in told:
            return None
        name, login = peer
        expected = response_of(
            algorithm, login, self._realm, nonce, method, told["uri"], "auth", nc, told.get("cnonce", "")
        )
        if not hmac.compare_digest(expected.encode(), told.get("response", "").lower().encode()):
            return None
        return name

    def _is_next(self, nonce: str, count: int) -> bool:
        if count <= self._counts.get(nonce, 0):
            return False
        self._counts[nonce] = count
        self._counts.move_to_end(nonce)
        if len(self._counts) > MOST_COUNTS:
            self._counts.popitem(last=False)
        return True

    def _nonce(self, now_ns: int) -> str:
        return f"{now_ns:016x}{self._proof(now_ns)}"

    def _age_ns(self, nonce: str, now_ns: int) -> int | None:
        """None for a nonce that is none of ours."""
        match = _NONCE.fullmatch(nonce)
        if match is None or not hmac.compare_digest(self._proof(int(match[1], 16)), match[2]):
            return None
        return now_ns - int(match[1], 16)

    def _proof(self, made_ns: int) -> str:
        return hashlib.blake2b(b"nonce\n%d" % made_ns, key=self._key, digest_size=16).hexdigest()


def _hash(algorithm: str, text: str) -> str:
    return hashlib.new(ALGORITHMS[algorithm], text.encode(), usedforsecurity=False).hexdigest()


def _quoted(text: str) -> str:
    escaped = re.sub(r'(["\\])', r"\\\1", text.replace("\r", "").replace("\n", ""))
    return f'"{escaped}"'
