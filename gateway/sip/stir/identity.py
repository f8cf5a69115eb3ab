# SPDX-License-Identifier: GPL-3.0-or-later
"""The Identity header of an INVITE and the PASSporT in it (RFC 8224 4, RFC 8225, RFC 8588), before its certificate.

Sans-IO, the wall clock is an argument.  Whatever arrives, the only thing raised is `Distrust`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.reading import reader
from gateway.sip.header import BadMessage, Header, split_values
from gateway.sip.message import Request
from gateway.sip.stir.verdict import Distrust, Level

MOST_HEADERS: Final = 4
"""Identity headers of an INVITE that are looked at."""
MOST_DESTINATIONS: Final = 32
MOST_TIME: Final = 2**53
_TOKEN: Final = rb"[A-Za-z0-9\-.!%*_+`'~]+"
_PARAM: Final = rb"[ \t]*;[ \t]*(" + _TOKEN + rb")[ \t]*=[ \t]*(<[^<>]*>|\"[^\"]*\"|" + _TOKEN + rb")"
_ONE_PARAM = re.compile(_PARAM)
_DIGEST = re.compile(rb"([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)")
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.S)
_URI = re.compile(rb"<[ \t]*(sips?|tel):([^>]*)>|^[ \t]*(sips?|tel):([^;>\s]*)", re.I)
_NUMBER = re.compile(rb"[0-9*#]{1,15}")
_JWS: Final = jwt.PyJWS(algorithms=["ES256"])


@dataclass(frozen=True, slots=True)
class Claim:
    """What a PASSporT claims and the INVITE does not gainsay; whether it is signed is to be seen."""

    token: str
    url: str
    """Of the certificate."""
    level: Level
    orig: str
    """Digits of the number that calls."""


class _Head(msgspec.Struct, frozen=True):
    alg: str
    x5u: str
    ppt: str = ""
    typ: str = "passport"
    crit: Any = None
    b64: Any = None


class _Orig(msgspec.Struct, frozen=True):
    tn: str


class _Dest(msgspec.Struct, frozen=True):
    tn: list[str] = []


class _Claims(msgspec.Struct, frozen=True):
    attest: str
    dest: _Dest
    iat: int
    orig: _Orig
    origid: str


_decode_head = reader(msgspec.json.Decoder(_Head).decode)
_decode_claims = reader(msgspec.json.Decoder(_Claims).decode)


def claim_of(request: Request, fresh_s: int, now_s: float) -> Claim | None:
    """Of the first `shaken` PASSporT of an INVITE; None without an Identity header. Raises `Distrust`."""
    values = [header.value for header in request.headers if header.name == b"identity"]
    if not values:
        return None
    for value in values[:MOST_HEADERS]:
        parts, url, ppt = _read(value)
        if ppt and ppt != "shaken":
            continue  # RFC 8224 6.2 step 1: as if it were not there
        if not parts[0] or not parts[1]:
            if ppt:
                raise Distrust("compact")
            continue
        head = _head(parts[0])
        if (head.ppt or ppt) != "shaken":
            continue
        _check_head(head, url)
        claims = _claims(parts[1])
        _check(claims, request, fresh_s, now_s)
        token = b".".join(parts).decode("ascii")
        return Claim(token, url, claims.attest, _digits(claims.orig.tn))  # type: ignore[arg-type]
    raise Distrust("ppt")


def is_signed(claim: Claim, key: ec.EllipticCurvePublicKey) -> bool:
    """By the certificate's key, with ES256 (RFC 7518 3.4)."""
    try:
        _JWS.decode(claim.token, key, algorithms=["ES256"])
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return False
    return True


def number_of(value: bytes) -> str:
    """Digits of the telephone number in an address (`"Anna" <sip:+1-215-555-1212@x>`), canonical by RFC 8224 8.3;
    "" for what is none."""
    found = _URI.search(_QUOTED.sub(b"", value))
    if found is None:
        return ""
    scheme, address = (found[1] or found[3]).lower(), found[2] or found[4] or b""
    if scheme == b"tel":
        return _canonical(address.partition(b";")[0])
    user, at, _ = address.partition(b"@")
    return _canonical(user.partition(b";")[0].partition(b":")[0]) if at else ""


def _canonical(user: bytes) -> str:
    digits = re.sub(rb"[-.() ]", b"", unquote_to_bytes(user)).removeprefix(b"+")
    return digits.decode() if _NUMBER.fullmatch(digits) else ""


def _digits(told: str) -> str:
    return _canonical(told.encode(errors="replace"))


def _read(value: bytes) -> tuple[list[bytes], str, str]:
    """Parts of the token, `info`, `ppt`; `alg` is checked."""
    digest, semicolon, _ = value.partition(b";")
    match = _DIGEST.fullmatch(digest.strip())
    params: dict[bytes, bytes] = {}
    at = len(digest)
    while found := _ONE_PARAM.match(value, at):
        name = found[1].lower()
        if name in params:
            raise Distrust("header")
        params[name] = found[2].strip(b'"<>')
        at = found.end()
    if match is None or not semicolon or value[at:].strip() or b"info" not in params:
        raise Distrust("header")
    if params.get(b"alg", b"ES256") != b"ES256":
        raise Distrust("algorithm")
    try:
        url, ppt = params[b"info"].decode("ascii"), params.get(b"ppt", b"").decode("ascii")
    except UnicodeDecodeError:
        raise Distrust("header") from None
    return list(match.groups()), url, ppt


def _bytes(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _head(part: bytes) -> _Head:
    try:
        return _decode_head(_bytes(part))
    except (msgspec.MsgspecError, ValueError):
        raise Distrust("header") from None


def _check_head(head: _Head, url: str) -> None:
    if head.alg != "ES256":
        raise Distrust("algorithm")
    if head.typ.lower() != "passport" or head.crit is not None or head.b64 is not None or head.x5u != url:
        raise Distrust("header")


def _claims(part: bytes) -> _Claims:
    try:
        claims = _decode_claims(_bytes(part))
    except (msgspec.MsgspecError, ValueError):
        raise Distrust("claims") from None
    if claims.attest not in ("A", "B", "C") or not claims.origid or not _digits(claims.orig.tn):
        raise Distrust("claims")
    if not 0 < len(claims.dest.tn) <= MOST_DESTINATIONS or not 0 < claims.iat < MOST_TIME:
        raise Distrust("claims")
    return claims


def _check(claims: _Claims, request: Request, fresh_s: int, now_s: float) -> None:
    """Against the INVITE (RFC 8224 6.2 steps 2 and 4): what is claimed is what it says."""
    age_s = now_s - claims.iat
    if abs(age_s) > fresh_s:
        raise Distrust("stale", f"{age_s:.0f} s old")
    if _digits(claims.orig.tn) != _caller(request):
        raise Distrust("orig")
    called = {number_of(value) for value in (*_values(request, b"to"), b"<%b>" % request.uri)} - {""}
    if called.isdisjoint(_digits(number) for number in claims.dest.tn):
        raise Distrust("dest")


def _caller(request: Request) -> str:
    """The number in From, which is the one that the gateway goes by; where From has none, as of anonymous callers,
    that in P-Asserted-Identity (RFC 3325)."""
    for name in (b"from", b"p-asserted-identity"):
        for value in _values(request, name):
            if number := number_of(value):
                return number
    return ""


def _values(request: Request, name: bytes) -> Iterator[bytes]:
    for header in request.headers:
        if header.name == name:
            yield from _split(header)


def _split(header: Header) -> list[bytes]:
    try:
        return split_values(header.value)
    except BadMessage:
        return []
