# SPDX-License-Identifier: GPL-3.0-or-later
"""`sips:` calls (RFC 3261 26.2, RFC 5630): TLS on every hop but the last, which is the loopback to a worker.

A worker has plain SIP on 127.0.0.1 and would refuse a URI that asks for more (480). So the edge writes `sip:`
towards the worker in everything that the worker routes by, and `sips:` again towards the peer.  From and To
stay: they are names, and nobody routes by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from gateway.sip.flows import Flow
from gateway.sip.header import BadMessage, Header
from gateway.sip.message import Request

_ROUTED_BY: Final = frozenset((b"contact", b"record-route", b"route"))
_SIPS = re.compile(rb"sips:", re.I)
_SIP = re.compile(rb"sip:", re.I)
_SIPS_VALUE = re.compile(rb'("(?:[^"\\]|\\.)*+")|(\A|[<,])([ \t]*)sips:', re.I | re.S)
_SIP_VALUE = re.compile(rb'("(?:[^"\\]|\\.)*+")|(\A|[<,])([ \t]*)sip:', re.I | re.S)


def is_sips(uri: bytes) -> bool:
    """Whether `uri` asks for TLS on every hop."""
    return _SIPS.match(uri) is not None


def check_secure(request: Request, source: Flow) -> None:
    """Raise BadMessage(416) for a `sips:` request that did not come by TLS: we cannot make it safe any more."""
    if source.kind != "tls" and is_sips(request.uri):
        raise BadMessage(416, "SIPS Needs TLS")


def for_worker(request: Request) -> Request:
    """`request` of a `sips:` call as the worker shall see it."""
    uri = _SIPS.sub(b"sip:", request.uri, 1) if is_sips(request.uri) else request.uri
    return replace(request, uri=uri, headers=headers_for_worker(request.headers))


def for_peer(request: Request) -> Request:
    """`request` of the worker as the peer of a `sips:` call shall see it."""
    uri = _SIP.sub(b"sips:", request.uri, 1) if _SIP.match(request.uri) else request.uri
    return replace(request, uri=uri, headers=headers_for_peer(request.headers))


def headers_for_worker(headers: Iterable[Header]) -> list[Header]:
    """With `sip:` in what the worker routes by."""
    return [_rewritten(header, _SIPS_VALUE, b"sip:") for header in headers]


def headers_for_peer(headers: Iterable[Header]) -> list[Header]:
    """With `sips:` in what the peer routes by (RFC 3261 12.1.1 and 16.6 step 4)."""
    return [_rewritten(header, _SIP_VALUE, b"sips:") for header in headers]


def _rewritten(header: Header, pattern: re.Pattern[bytes], scheme: bytes) -> Header:
    if header.name not in _ROUTED_BY:
        return header

    def scheme_of(match: re.Match[bytes]) -> bytes:
        return match[0] if match[1] is not None else match[2] + match[3] + scheme

    value = pattern.sub(scheme_of, header.value)
    return header if value == header.value else Header.make(header.name.title(), value)
