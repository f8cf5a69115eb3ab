# SPDX-License-Identifier: GPL-3.0-or-later
"""What a proxy does to the headers of what it forwards: Via, Record-Route, Route and Max-Forwards."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import replace
from hashlib import blake2b
from typing import Final, Literal

from gateway.sip.flows import Flow
from gateway.sip.header import BadMessage, Header, Via, find, parse_via, pop_value, split_values
from gateway.sip.message import Request, Response

DEFAULT_MAX_FORWARDS: Final = 70

_BRANCH = re.compile(rb"z9hG4bKmt([0-9a-f]{8})([0-9a-f]{16})([utsw])([0-9]{0,12})")
_LETTERS: Final = {"udp": b"u", "tcp": b"t", "tls": b"s", "worker": b"w"}
_CONNECTIONS: Final[dict[bytes, Literal["tcp", "tls"]]] = {b"t": "tcp", b"s": "tls"}
_RELIABLE = re.compile(rb"transport=(?:tcp|tls)\b", re.I)
_URI_HOST = re.compile(rb"sips?:(?:[^@>]*@)?(\[[^\]>]+\]|[^:;>?\s]+)(?::([0-9]{1,5}))?([^>]*)", re.I)


class Path:
    """Our own Via, Record-Route and Route entries (RFC 3261 16.6, RFC 5658 for the two sides).

    `tls` is the address outside for peers that come by TLS, None if there are none.
    """

    def __init__(
        self,
        key: bytes,
        inside: tuple[str, int],
        outside: tuple[str, int],
        tls: tuple[str, int] | None = None,
    ) -> None:
        self._key = key
        self._mark = blake2b(b"mark", key=key, digest_size=4).hexdigest().encode()
        self._inside = host_port(*inside)
        self._outside = host_port(*outside)
        self._tls = host_port(*(tls or outside))
        own = (inside, outside, tls or outside)
        self._own = {(host.strip("[]").lower().encode(), port) for host, port in own}

    def tag(self, call_id: bytes) -> bytes:
        """To-tag of our own answers; the same for a retransmission."""
        return blake2b(call_id, key=self._key, digest_size=8).hexdigest().encode()

    def record_routes(self, flow: Flow, to_worker: bool = True) -> list[Header]:
        """For an INVITE between a worker and the peer at `flow`: the receiver's side on top."""
        transport = b";transport=%b" % flow.kind.encode() if flow.is_connection else b""
        routes = [
            Header.make(b"Record-Route", b"<sip:%b;lr>" % self._inside),
            Header.make(b"Record-Route", b"<sip:%b%b;lr>" % (self._own_address(flow), transport)),
        ]
        return routes if to_worker else routes[::-1]

    def own_uri(self, peer: Flow) -> bytes:
        """Our name in the calls that we begin."""
        return b"sip:microturn@" + self._own_address(peer)

    def via(self, message: Request, to_worker: bool, back: Flow, out: Flow) -> Header:
        """Our Via for `message`, sent along `out`, whose response shall go `back`."""
        connection = b"%d" % back.connection if back.is_connection else b""
        branch = b"z9hG4bKmt%b%b%b%b" % (
            self._mark,
            self._proof(message.via, message.call_id, message.cseq, back),
            _LETTERS[back.kind],
            connection,
        )
        transport = out.kind.upper().encode() if out.is_connection else b"UDP"
        sent_by = self._inside if to_worker else self._own_address(out)
        rport = b"" if to_worker else b";rport"
        return Header.make(b"Via", b"SIP/2.0/%b %b;branch=%b%b" % (transport, sent_by, branch, rport))

    def pop_via(self, response: Response, worker: Flow) -> tuple[Flow, list[Header]] | None:
        """Where `response` goes, and its headers without our Via; None if it is no answer to what we sent."""
        match = _BRANCH.fullmatch(response.via.branch)
        headers = pop_value(response.headers, b"via")
        rest = find(headers, b"via")
        if match is None or rest is None:
            return None
        via = parse_via(split_values(rest)[0])
        if match[3] in _CONNECTIONS:
            back = Flow(_CONNECTIONS[match[3]], "", 0, int(match[4] or 0))
        elif match[3] == b"w":
            back = worker
        else:
            port = via.params.get(b"rport") or b"%d" % (via.port or 5060)
            host = (via.params.get(b"received") or via.host).decode("ascii", "replace")
            if not port.isdigit() or not 0 < int(port[:6]) < 65536:
                return None
            back = Flow("udp", host, int(port))
        if not hmac.compare_digest(self._proof(via, response.call_id, response.cseq, back), match[2]):
            return None
        return back, headers

    def has_looped(self, headers: list[Header]) -> bool:
        """RFC 3261 16.3: the request has been here before."""
        mark = b"z9hG4bKmt" + self._mark
        return any(header.name == b"via" and mark in header.value for header in headers)

    def strip_routes(self, headers: list[Header]) -> list[Header]:
        """Without our own entries at the head of the route set (RFC 3261 16.4)."""
        while (route := find(headers, b"route")) is not None:
            match = _URI_HOST.search(split_values(route)[0])
            if match is None or (match[1].strip(b"[]").lower(), int(match[2] or 5060)) not in self._own:
                break
            headers = pop_value(headers, b"route")
        return headers

    def _own_address(self, peer: Flow) -> bytes:
        return self._tls if peer.kind == "tls" else self._outside

    def _proof(self, via: Via, call_id: bytes, cseq: int, back: Flow) -> bytes:
        where = b"%d" % back.connection if back.is_connection else f"{back.host} {back.port}".encode()
        text = b"\n".join((via.sent_by, via.branch, call_id, b"%d" % cseq, _LETTERS[back.kind] + where))
        return blake2b(text, key=self._key, digest_size=8).hexdigest().encode()


def host_port(host: str, port: int) -> bytes:
    """As in a URI or Via: IPv6 in brackets."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed}:{port}".encode()


def received(request: Request, source: Flow) -> Request:
    """RFC 3261 18.2.1, RFC 3581 4: the topmost Via says where the request really came from."""
    params = {k: v for k, v in request.via.params.items() if k not in (b"received", b"rport")}
    params[b"received"] = source.host.encode()
    if b"rport" in request.via.params:
        params[b"rport"] = b"%d" % source.port
    via = replace(request.via, params=params)
    for at, header in enumerate(request.headers):
        if header.name == b"via":
            rest = split_values(header.value)[1:]
            fixed = Header.make(b"Via", b", ".join((via.render(), *rest)))
            return request.with_headers([*request.headers[:at], fixed, *request.headers[at + 1 :]], via)
    raise AssertionError("a parsed request has a Via")


def response_flow(via: Via, source: Flow) -> Flow:
    """Where the response to a request from `source` goes (RFC 3261 18.2.2, RFC 3581 4)."""
    if source.kind == "udp" and b"rport" not in via.params:
        return Flow("udp", source.host, via.port or 5060)
    return source


def next_hop(request: Request, headers: list[Header]) -> Flow | None:
    """For a call adopted without a flow: the numeric UDP address that the worker's request names, else
    None."""
    match = _URI_HOST.search(find(headers, b"route") or request.uri)
    if match is None or _RELIABLE.search(match[3]) or match[0].lower().startswith(b"sips"):
        return None
    host, port = match[1].strip(b"[]").decode("ascii", "replace"), int(match[2] or 5060)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return Flow("udp", host, port) if 0 < port < 65536 else None


def transaction(request: Request) -> bytes:
    """What tells a retransmission from a new request (RFC 3261 17.2.3)."""
    return b"%b %b %d" % (request.via.sent_by, request.via.branch, request.cseq)


def check_forwarding(request: Request) -> None:
    """RFC 3261 16.3, 3 and 5: what a proxy must refuse before anything else."""
    if _max_forwards(request.headers) == 0:
        raise BadMessage(483, "Too Many Hops")
    required = find(request.headers, b"proxy-require")
    if required and request.method not in (b"ACK", b"CANCEL"):
        raise BadMessage(420, "Bad Extension", (Header.make(b"Unsupported", required),))


def count_down(headers: list[Header]) -> list[Header]:
    hops = _max_forwards(headers)
    if hops is None:
        return [*headers, Header.make(b"Max-Forwards", b"%d" % DEFAULT_MAX_FORWARDS)]
    fewer = Header.make(b"Max-Forwards", b"%d" % (hops - 1))
    return [fewer if header.name == b"max-forwards" else header for header in headers]


def _max_forwards(headers: list[Header]) -> int | None:
    value = find(headers, b"max-forwards")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 5 or int(value) > 255:
        raise BadMessage(400, "Bad Max-Forwards")
    return int(value)
