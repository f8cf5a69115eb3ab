# SPDX-License-Identifier: GPL-3.0-or-later
"""A router without sockets: what its peers and workers send it, and what comes out of it."""

from gateway.sip.flows import Flow, Send
from gateway.sip.header import BadMessage, split_values
from gateway.sip.load import WorkerAddress
from gateway.sip.message import Request, Response, parse
from gateway.sip.routing import Router

ALICE = Flow("udp", "192.0.2.1", 5060)
BOB_TCP = Flow("tcp", "192.0.2.2", 40001, 7)
CAROL_TLS = Flow("tls", "192.0.2.3", 40003, 7)
MALLORY = Flow("udp", "203.0.113.66", 5060)
SDP = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
MS = 1_000_000


def worker_flow(number: int) -> Flow:
    return Flow("worker", "127.0.0.1", 6000 + number)


def edge(workers: int = 3, capacity: int = 4, spacing_ms: int = 0, **options: object) -> Router:
    router = Router(b"k" * 32, ("127.0.0.1", 5999), ("198.51.100.1", 5060), **options)  # type: ignore[arg-type]
    for number in range(workers):
        router.add_worker(WorkerAddress(f"w{number}", "127.0.0.1", 6000 + number, capacity, spacing_ms * MS))
    return router


def request(
    method: str = "INVITE",
    call_id: str = "c1",
    *,
    cseq: int = 1,
    branch: str = "",
    to_tag: str = "",
    extra: bytes = b"",
    body: bytes | None = None,
    kind: str = "application/sdp",
    transport: str = "UDP",
    via: str = "192.0.2.1:5060",
    rport: str = ";rport",
) -> bytes:
    if body is None:
        body = SDP if method == "INVITE" else b""
    head = (
        f"{method} sip:bot@198.51.100.1 SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} {via};branch={branch or 'z9hG4bK-' + call_id + str(cseq)}{rport}\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:alice@x>;tag=a\r\n"
        f"To: <sip:bot@x>{';tag=' + to_tag if to_tag else ''}\r\n"
        f"Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n"
    ).encode()
    if body:
        head += f"Content-Type: {kind}\r\n".encode()
    return head + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


def worker_request(method: str, call_id: str, worker: Flow, route: list[bytes], cseq: int = 9) -> bytes:
    data = request(method, call_id, cseq=cseq, to_tag="a", via=f"127.0.0.1:{worker.port}", body=b"")
    lines = b"".join(b"Route: %b\r\n" % value for value in route)
    return data.replace(b"Content-Length", lines + b"Content-Length")


def give(router: Router, data: bytes, source: Flow = ALICE, now: int = 0) -> list[Send]:
    try:
        return router.handle(parse(data), source, now)
    except BadMessage as bad:
        return router.handle(bad, source, now)


def one(sends: list[Send]) -> tuple[Flow, Request | Response]:
    (send,) = sends
    return send.flow, parse(send.data)


def status(sends: list[Send]) -> int:
    _, message = one(sends)
    assert isinstance(message, Response)
    return message.status


def answer(to: Request, code: int, reason: str = "x", *, tag: str = "w", body: bytes = b"") -> bytes:
    """What a user agent answers to `to`."""
    lines = [f"SIP/2.0 {code} {reason}".encode()]
    for header in to.headers:
        if header.name in (b"via", b"from", b"call-id", b"cseq", b"record-route"):
            lines.append(header.raw)
        elif header.name == b"to":
            lines.append(header.raw if b";tag=" in header.raw else header.raw + f";tag={tag}".encode())
    if body:
        lines.append(b"Content-Type: application/sdp")
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def start(
    router: Router, call_id: str = "c1", source: Flow = ALICE, now: int = 0, **more: str
) -> tuple[Flow, Request]:
    flow, forwarded = one(give(router, request(call_id=call_id, **more), source, now))  # type: ignore[arg-type]
    assert isinstance(forwarded, Request), forwarded
    return flow, forwarded


def establish(
    router: Router, call_id: str = "c1", source: Flow = ALICE, **more: str
) -> tuple[Flow, Response]:
    """A confirmed call: its worker, and the 200 as the caller sees it."""
    worker, forwarded = start(router, call_id, source, 0, **more)
    _, ok = one(give(router, answer(forwarded, 200, body=SDP), worker))
    assert isinstance(ok, Response)
    ack = request("ACK", call_id, branch="z9hG4bKack", to_tag="w", **more)  # type: ignore[arg-type]
    assert one(give(router, ack, source))[0] == worker
    return worker, ok


def routes(message: Request | Response, name: bytes) -> list[bytes]:
    return [v for h in message.headers if h.name == name for v in split_values(h.value)]
