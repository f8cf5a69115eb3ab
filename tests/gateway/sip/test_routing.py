# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets a call, and where each later message of it goes.  No socket, no clock."""

import random
from collections import Counter
from pathlib import Path

import pytest

from gateway.sip.admission import Refusal
from gateway.sip.flows import Flow, Send
from gateway.sip.header import BadMessage, Header, find, split_values
from gateway.sip.load import WorkerAddress
from gateway.sip.message import Request, Response, parse
from gateway.sip.routing import Router
from gateway.sip.timers import SECOND_NS

RFC4475 = Path(__file__).resolve().parents[4] / "shared" / "data" / "sip" / "rfc4475"
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


# ---- Choice and load ----


def test_twelve_calls_spread_over_three_workers_and_the_thirteenth_is_refused() -> None:
    router = edge(retry_after_s=3)
    taken = Counter(start(router, f"c{n}")[0] for n in range(12))
    assert taken == {worker_flow(n): 4 for n in range(3)}
    _, refusal = one(give(router, request(call_id="c12")))
    assert isinstance(refusal, Response) and refusal.status == 503
    assert find(refusal.headers, b"retry-after") == b"3"
    assert router.counters.refused_busy == 1
    assert give(router, request("ACK", "c12")) == []  # of the 503


def test_no_worker_or_draining_is_503_and_live_calls_go_on() -> None:
    assert status(give(edge(workers=0), request())) == 503
    router = edge()
    worker, _ = establish(router)
    router.drain()
    assert status(give(router, request(call_id="new"))) == 503
    assert one(give(router, request("BYE", cseq=2, to_tag="w")))[0] == worker


def test_retransmitted_invite_goes_to_the_same_worker_unchanged() -> None:
    router = edge()
    start(router, "other")
    first = give(router, request())
    assert give(router, request()) == first
    assert sum(router.workers.loads().values()) == 2


def test_second_invite_by_another_way_is_merged() -> None:
    router = edge()
    start(router)
    assert status(give(router, request(branch="z9hG4bKother"))) == 482


def test_refused_call_frees_its_place_and_its_ack_and_retransmission_find_the_worker() -> None:
    router = edge(workers=1, capacity=1)
    worker, forwarded = start(router)
    flow, busy = one(give(router, answer(forwarded, 486), worker))
    assert flow == ALICE and isinstance(busy, Response) and busy.status == 486
    assert len(routes(busy, b"via")) == 1
    assert router.workers.loads() == {"w0": 0}
    ack_flow, ack = one(give(router, request("ACK", to_tag="w")))
    assert ack_flow == worker and ack.via.branch == forwarded.via.branch
    assert one(give(router, request()))[0] == worker
    assert router.workers.loads() == {"w0": 0}
    again, _ = start(router, branch="z9hG4bKagain", now=SECOND_NS)  # a new try under the same Call-ID
    assert again == worker and router.workers.loads() == {"w0": 1}
    router.poll(60 * SECOND_NS)
    assert router.workers.loads() == {"w0": 1}


def test_admission_hook_sees_the_sender_and_its_refusal_is_sent() -> None:
    seen: list[bytes | None] = []

    def admit(asked: Request) -> Refusal | None:
        seen.append(asked.via.params[b"received"])
        if asked.call_id == b"c1":
            return Refusal(401, "Unauthorized", (Header.make(b"WWW-Authenticate", b"Digest"),))
        return None

    router = edge(admit=admit)
    _, refusal = one(give(router, request(via="10.0.0.1")))
    assert isinstance(refusal, Response) and refusal.status == 401
    assert find(refusal.headers, b"www-authenticate") == b"Digest"
    start(router, "c2")
    give(router, request(call_id="c2"))  # a retransmission is not asked about again
    assert seen == [b"192.0.2.1", b"192.0.2.1"]


def test_full_table_is_503() -> None:
    router = edge(max_calls=2)
    start(router, "c1")
    start(router, "c2")
    assert status(give(router, request(call_id="c3"))) == 503


# ---- Transactions and dialogs ----


def test_cancel_has_the_branch_of_its_invite() -> None:
    router = edge()
    worker, forwarded = start(router)
    flow, cancel = one(give(router, request("CANCEL")))
    assert flow == worker and cancel.via.branch == forwarded.via.branch
    assert isinstance(cancel, Request)
    assert status(give(router, answer(cancel, 200), worker)) == 200
    assert status(give(router, answer(forwarded, 487), worker)) == 487
    assert sum(router.workers.loads().values()) == 0
    assert status(give(router, request("CANCEL", "unknown"))) == 481


@pytest.mark.parametrize("method", ["BYE", "INFO", "UPDATE", "PRACK", "INVITE", "OPTIONS", "REFER", "NOTIFY"])
def test_in_dialog_request_of_an_unknown_call_is_481(method: str) -> None:
    assert status(give(edge(), request(method, to_tag="w"))) == 481


def test_ack_of_an_unknown_call_is_dropped() -> None:
    assert give(edge(), request("ACK", to_tag="w")) == []


@pytest.mark.parametrize("code", [200, 481])
def test_bye_from_the_caller_frees_the_place_when_answered(code: int) -> None:
    router = edge()
    worker, _ = establish(router)
    flow, bye = one(give(router, request("BYE", cseq=2, to_tag="w")))
    assert flow == worker and isinstance(bye, Request)
    assert sum(router.workers.loads().values()) == 1
    assert status(give(router, answer(bye, code), worker)) == code
    assert sum(router.workers.loads().values()) == 0
    assert one(give(router, request("BYE", cseq=2, to_tag="w")))[0] == worker  # its 200 was lost
    assert router.counters.calls_ended == 1


def worker_request(method: str, call_id: str, worker: Flow, route: list[bytes], cseq: int = 9) -> bytes:
    data = request(method, call_id, cseq=cseq, to_tag="a", via=f"127.0.0.1:{worker.port}", body=b"")
    lines = b"".join(b"Route: %b\r\n" % value for value in route)
    return data.replace(b"Content-Length", lines + b"Content-Length")


def test_bye_from_the_worker_goes_down_the_callers_flow_and_its_answer_back() -> None:
    router = edge()
    worker, ok = establish(router)
    flow, bye = one(give(router, worker_request("BYE", "c1", worker, routes(ok, b"record-route")), worker))
    assert flow == ALICE and isinstance(bye, Request)
    assert routes(bye, b"route") == []
    assert bye.via.sent_by == b"198.51.100.1:5060"
    back, answered = one(give(router, answer(bye, 200), ALICE))
    assert back == worker and answered.via.host == b"127.0.0.1" and len(routes(answered, b"via")) == 1
    assert sum(router.workers.loads().values()) == 0


def test_tls_caller_is_met_at_the_tls_port_and_only_on_its_connection() -> None:
    router = edge(tls=("198.51.100.1", 5061))
    worker, ok = establish(router, source=CAROL_TLS, transport="TLS", via="10.9.9.9:5061")
    own = [b"<sip:127.0.0.1:5999;lr>", b"<sip:198.51.100.1:5061;transport=tls;lr>"]
    assert routes(ok, b"record-route") == own
    both = b"Route: " + b", ".join(reversed(own)) + b"\r\n"
    _, info = one(give(router, request("BYE", cseq=2, to_tag="w", transport="TLS", extra=both), CAROL_TLS))
    assert isinstance(info, Request) and not routes(info, b"route")
    flow, hangup = one(give(router, worker_request("BYE", "c1", worker, []), worker))
    assert flow == CAROL_TLS
    assert (hangup.via.transport, hangup.via.sent_by) == (b"TLS", b"198.51.100.1:5061")
    flow, _ = one(give(router, answer(info, 200), worker))
    assert (flow.kind, flow.connection) == ("tls", 7)
    forged = answer(info, 200).replace(b"s7\r", b"t7\r").replace(b"s7;", b"t7;")
    assert forged != answer(info, 200)
    assert give(router, forged, worker) == [] and router.counters.spoofed == 1  # not on a TCP connection


def test_call_by_tls_whose_connection_is_lost_waits_for_a_new_one() -> None:
    router = edge(tls=("198.51.100.1", 5061))
    worker, _ = establish(router, source=CAROL_TLS, transport="TLS")
    router.flow_closed(CAROL_TLS)
    by_tls = worker_request("BYE", "c1", worker, []).replace(
        b"sip:bot@198.51.100.1 ", b"sip:b@h;transport=tls "
    )
    assert status(give(router, by_tls, worker)) == 480


SIPS = (b"sip:bot@198.51.100.1 SIP", b"sips:bot@198.51.100.1 SIP")
CONTACT = b'Contact: "<sip:x>, sips:y" <sips:carol@192.0.2.3>;q=1\r\n'


def sips_request(method: str = "INVITE", **more: object) -> bytes:
    return request(method, transport="TLS", **more).replace(*SIPS)  # type: ignore[arg-type]


def test_sips_call_is_plain_to_its_worker_and_sips_to_its_peer() -> None:
    router = edge(tls=("198.51.100.1", 5061))
    extra = CONTACT + b"Record-Route: <sips:proxy.example;lr>\r\n"
    worker, forwarded = one(give(router, sips_request(extra=extra), CAROL_TLS))
    assert isinstance(forwarded, Request) and forwarded.uri == b"sip:bot@198.51.100.1"
    assert find(forwarded.headers, b"contact") == b'"<sip:x>, sips:y" <sip:carol@192.0.2.3>;q=1'
    assert b"sips:" not in b"".join(routes(forwarded, b"record-route"))
    ok = answer(forwarded, 200, body=SDP).replace(
        b"Content-Type", b"Contact: <sip:127.0.0.1:6000;ob>\r\nContent-Type"
    )
    _, seen = one(give(router, ok, worker))
    assert find(seen.headers, b"contact") == b"<sips:127.0.0.1:6000;ob>"
    assert routes(seen, b"record-route") == [
        b"<sips:127.0.0.1:5999;lr>", b"<sips:198.51.100.1:5061;transport=tls;lr>", b"<sips:proxy.example;lr>"
    ]  # fmt: skip
    both = b"Route: <sips:198.51.100.1:5061;transport=tls;lr>, <sips:127.0.0.1:5999;lr>\r\n"
    _, ack = one(give(router, sips_request("ACK", to_tag="w", branch="z9hG4bKa", extra=both), CAROL_TLS))
    assert isinstance(ack, Request) and ack.uri.startswith(b"sip:") and not routes(ack, b"route")
    flow, bye = one(give(router, worker_request("BYE", "c1", worker, []), worker))
    assert isinstance(bye, Request) and flow == CAROL_TLS and bye.uri.startswith(b"sips:")
    back, answered = one(give(router, answer(bye, 200), CAROL_TLS))
    assert back == worker and b"sips:" not in b"".join(h.raw for h in answered.headers if h.name != b"to")


@pytest.mark.parametrize("source", [ALICE, BOB_TCP])
@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_sips_without_tls_is_refused(source: Flow, method: str) -> None:
    router = edge()
    assert status(give(router, request(method).replace(*SIPS), source)) == 416
    assert sum(router.workers.loads().values()) == 0


def test_timer_c_of_a_sips_call_cancels_what_the_worker_was_sent() -> None:
    router = edge(tls=("198.51.100.1", 5061))
    worker, forwarded = one(give(router, sips_request(), CAROL_TLS))
    sends = router.poll(200 * SECOND_NS)
    (cancel,) = [parse(send.data) for send in sends if send.flow == worker]
    assert isinstance(cancel, Request) and isinstance(forwarded, Request)
    assert (cancel.method, cancel.uri, cancel.via.branch) == (b"CANCEL", forwarded.uri, forwarded.via.branch)


def test_tcp_caller_and_udp_worker_with_a_record_route_for_each_side() -> None:
    router = edge()
    worker, forwarded = start(router, source=BOB_TCP, transport="TCP", via="10.9.9.9:5060")
    assert routes(forwarded, b"record-route") == [
        b"<sip:127.0.0.1:5999;lr>",
        b"<sip:198.51.100.1:5060;transport=tcp;lr>",
    ]
    assert (forwarded.via.transport, forwarded.via.sent_by) == (b"UDP", b"127.0.0.1:5999")
    flow, ok = one(give(router, answer(forwarded, 200, body=SDP), worker))
    assert flow.kind == "tcp" and flow.connection == BOB_TCP.connection
    both = list(reversed(routes(ok, b"record-route")))
    ack = request(
        "ACK", branch="z9hG4bKk", to_tag="w", transport="TCP",
        extra=b"Route: " + b", ".join(both) + b"\r\nRoute: <sip:127.0.0.9;lr>\r\n",
    )  # fmt: skip
    to, message = one(give(router, ack, BOB_TCP))
    assert to == worker and routes(message, b"route") == [b"<sip:127.0.0.9;lr>"]
    route = routes(ok, b"record-route")
    flow, bye = one(give(router, worker_request("BYE", "c1", worker, route), worker))
    assert flow == BOB_TCP and bye.via.transport == b"TCP" and routes(bye, b"route") == []


def test_closed_connection_leaves_the_call_and_the_callers_next_one_takes_over() -> None:
    router = edge()
    worker, ok = establish(router, source=BOB_TCP, transport="TCP")
    assert router.flow_in_use(BOB_TCP)
    router.flow_closed(BOB_TCP)
    assert not router.flow_in_use(BOB_TCP)
    tcp_contact = worker_request("BYE", "c1", worker, []).replace(
        b"sip:bot@198.51.100.1 ", b"sip:b@h;transport=tcp "
    )
    assert status(give(router, tcp_contact, worker)) == 480
    again = Flow("tcp", "192.0.2.2", 40002, 8)
    assert one(give(router, request("UPDATE", cseq=2, to_tag="w", transport="TCP"), again))[0] == worker
    assert one(give(router, worker_request("BYE", "c1", worker, []), worker))[0] == again


def test_flow_of_a_live_call_is_not_taken_by_another_sender() -> None:
    router = edge()
    worker, _ = establish(router)
    give(router, request("INFO", cseq=5, to_tag="w"), MALLORY)
    assert one(give(router, worker_request("BYE", "c1", worker, []), worker))[0] == ALICE


def test_options_is_answered_by_the_edge() -> None:
    router = edge()
    _, out = one(give(router, request("OPTIONS", "o1")))
    assert isinstance(out, Response) and out.status == 200
    assert all(find(out.headers, name) for name in (b"allow", b"accept", b"supported"))
    establish(router)
    assert status(give(router, request("OPTIONS", cseq=3, to_tag="w"))) == 200
    router.call_ended(b"c1", 0)
    assert status(give(router, request("OPTIONS", cseq=4, to_tag="w"))) == 481


@pytest.mark.parametrize(
    ("text", "digit"),
    [(b"5", b"5"), (b"#\r\n", b"#"), (b"10", b"*"), (b"Signal= 7\r\nDuration=90\r\n", b"7")],
)
def test_dtmf_info_is_rewritten_to_relay(text: bytes, digit: bytes) -> None:
    router = edge()
    establish(router)
    data = request("INFO", cseq=2, to_tag="w", body=text, kind="application/dtmf")
    _, info = one(give(router, data))
    assert find(info.headers, b"content-type") == b"application/dtmf-relay"
    assert info.body == b"Signal=%b\r\nDuration=160\r\n" % digit
    assert len([h for h in info.headers if h.name == b"content-length"]) == 1


def test_dtmf_relay_passes_and_nonsense_is_400() -> None:
    router = edge()
    establish(router)
    relay = b"Signal=1\r\nDuration=90\r\n"
    kept = request("INFO", cseq=2, to_tag="w", body=relay, kind="application/dtmf-relay")
    assert one(give(router, kept))[1].body == relay
    assert (
        status(give(router, request("INFO", cseq=3, to_tag="w", body=b"123", kind="application/dtmf"))) == 400
    )


@pytest.mark.parametrize("method", ["REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "MESSAGE", "REFER"])
def test_out_of_dialog_requests_are_405(method: str) -> None:
    _, refusal = one(give(edge(), request(method)))
    assert isinstance(refusal, Response) and refusal.status == 405 and find(refusal.headers, b"allow")


def test_refer_in_dialog_is_declined_by_the_edge_unless_configured() -> None:
    router = edge()
    establish(router)
    refer = request("REFER", cseq=2, to_tag="w", extra=b"Refer-To: <sip:x@192.0.2.9>\r\n")
    assert status(give(router, refer)) == 603


def test_max_forwards_counts_down_and_ends() -> None:
    router = edge()
    assert find(start(router)[1].headers, b"max-forwards") == b"69"
    assert status(give(router, request(call_id="c2").replace(b"rds: 70", b"rds: 0"))) == 483
    _, none = one(give(router, request(call_id="c3").replace(b"Max-Forwards: 70\r\n", b"")))
    assert find(none.headers, b"max-forwards") == b"70"
    assert status(give(router, request(call_id="c4").replace(b"rds: 70", b"rds: 256"))) == 400


def test_our_own_request_coming_back_is_a_loop() -> None:
    router = edge()
    (send,) = give(router, request())
    assert status(give(router, send.data)) == 482


def test_what_a_proxy_must_understand_is_420() -> None:
    _, refusal = one(give(edge(), request(extra=b"Proxy-Require: odd\r\n")))
    assert isinstance(refusal, Response) and refusal.status == 420
    assert find(refusal.headers, b"unsupported") == b"odd"


# ---- Via ----


def test_response_goes_where_rport_and_received_say() -> None:
    router = edge()
    behind_nat = Flow("udp", "198.51.100.7", 34567)
    worker, forwarded = start(router, "c1", behind_nat, via="10.0.0.5:5062")
    below = routes(forwarded, b"via")[1]
    assert b"received=198.51.100.7" in below and b"rport=34567" in below
    assert one(give(router, answer(forwarded, 180), worker))[0] == behind_nat
    worker, forwarded = start(router, "c2", behind_nat, via="10.0.0.5:5062", rport=";received=1.2.3.4")
    assert one(give(router, answer(forwarded, 180), worker))[0] == Flow("udp", "198.51.100.7", 5062)


def test_spoofed_responses_are_dropped() -> None:
    router = edge()
    worker, forwarded = start(router)
    ok = answer(forwarded, 200, body=SDP)
    for source in (MALLORY, ALICE, worker_flow(9), worker_flow((worker.port - 6000 + 1) % 3)):
        assert give(router, ok, source) == []
    lookalike = Flow("udp", worker.host, worker.port)
    assert give(router, ok, lookalike) == []
    moved = ok.replace(b"received=192.0.2.1", b"received=203.0.113.1")
    assert give(router, moved, worker) == []
    other = ok.replace(b"branch=z9hG4bKmt", b"branch=z9hG4bKxx", 1)
    assert give(router, other, worker) == []
    assert router.counters.spoofed == 7
    assert one(give(router, ok, worker))[0] == ALICE


def test_inside_request_of_a_stranger_or_of_another_worker_is_not_taken() -> None:
    router = edge()
    worker, _ = establish(router)
    assert give(router, worker_request("BYE", "c1", worker, []), worker_flow(9)) == []
    wrong = worker_flow((worker.port - 6000 + 1) % 3)
    assert status(give(router, worker_request("BYE", "c1", wrong, []), wrong)) == 481


def test_request_without_the_magic_cookie_is_still_answered() -> None:
    router = edge()
    worker, forwarded = start(router, branch="1", rport="")
    assert one(give(router, answer(forwarded, 200, body=SDP), worker))[0] == ALICE


# ---- The screen ----


def test_address_that_pjsip_takes_once_only_never_reaches_a_worker() -> None:
    router = edge()
    for field in (b"From: <sip:alice@x>", b"To: <sip:bot@x>"):
        name, _, uri = field.partition(b" ")
        hostile = request().replace(field, name + b' ";;"Hostile"" ' + uri)
        (refusal,) = give(router, hostile)
        assert refusal.flow == ALICE and refusal.data.startswith(b"SIP/2.0 400 ")
    assert status(give(router, request(extra=b'Contact: "a"b" <sip:alice@192.0.2.1>\r\n'))) == 400
    assert sum(router.workers.loads().values()) == 0


def test_hostile_bodies_never_reach_a_worker() -> None:
    router = edge()
    no_address = SDP.replace(b"c=IN IP4 192.0.2.1\r\n", b"")
    assert status(give(router, request(body=no_address))) == 488
    assert status(give(router, request(body=b"--x", kind="multipart/mixed;boundary=x"))) == 415
    assert status(give(router, request(body=b"<x/>", kind="text/xml"))) == 415
    assert status(give(router, request(extra=b"Content-Encoding: gzip\r\n"))) == 415
    assert (
        status(give(router, request(extra=b"X: " + b"y" * 1900 + b"\r\nY: " + b"y" * 1900 + b"\r\n"))) == 513
    )
    assert sum(router.workers.loads().values()) == 0
    worker, _ = establish(router)
    assert status(give(router, request(cseq=2, to_tag="w", body=no_address))) == 488
    assert give(router, request("ACK", cseq=2, to_tag="w", body=no_address)) == []
    _, reinvite = one(give(router, worker_request("INVITE", "c1", worker, []), worker))
    assert isinstance(reinvite, Request)
    assert give(router, answer(reinvite, 200, body=no_address), ALICE) == []
    assert one(give(router, answer(reinvite, 200, body=SDP), ALICE))[0] == worker


# ---- Wideband ----

G722_FIRST = SDP.replace(b"RTP/AVP 0", b"RTP/AVP 9 0 8")
NARROW, WIDE = worker_flow(0), worker_flow(1)


def mixed_edge(capacity: int = 2, **options: object) -> Router:
    """One narrowband worker and a wideband one."""
    router = edge(workers=1, capacity=capacity, **options)
    router.add_worker(WorkerAddress("wide", WIDE.host, WIDE.port, capacity, wideband=True))
    return router


def places(router: Router, prefix: str, body: bytes, calls: int) -> list[Flow]:
    return [one(give(router, request(call_id=f"{prefix}{n}", body=body)))[0] for n in range(calls)]


def test_offer_with_g722_first_goes_to_the_wideband_worker_while_it_has_room() -> None:
    router = mixed_edge()
    assert places(router, "g", G722_FIRST, 4) == [WIDE, WIDE, NARROW, NARROW]
    assert status(give(router, request(call_id="g4", body=G722_FIRST))) == 503


def test_other_calls_prefer_narrowband_workers_and_overflow_to_the_wideband_one() -> None:
    router = mixed_edge()
    assert places(router, "n", SDP, 4) == [NARROW, NARROW, WIDE, WIDE]
    assert status(give(router, request(call_id="n4"))) == 503
    router.call_ended(b"n0", 0)
    assert places(router, "g", G722_FIRST, 1) == [NARROW]  # an overflow is not moved


def test_held_invite_keeps_its_band() -> None:
    router = edge(workers=0)
    for name, flow, wideband in (("n", NARROW, False), ("w", WIDE, True)):
        router.add_worker(WorkerAddress(name, flow.host, flow.port, 4, 100 * MS, wideband=wideband))
    assert places(router, "first", SDP, 2) == [NARROW, WIDE]  # spacing: the other band rather than a wait
    assert status(give(router, request(call_id="g", body=G722_FIRST))) == 100
    assert status(give(router, request(call_id="n"))) == 100
    released = router.poll(100 * MS)
    assert [(parse(s.data).call_id, s.flow) for s in released] == [(b"g", WIDE), (b"n", NARROW)]


def test_invite_without_an_offer_is_narrowband() -> None:
    assert places(mixed_edge(), "e", b"", 1) == [NARROW]


# ---- Spacing ----


def test_invites_within_the_spacing_wait_in_order() -> None:
    router = edge(workers=2, capacity=4, spacing_ms=100)
    assert {start(router, f"c{n}")[0] for n in range(2)} == {worker_flow(0), worker_flow(1)}
    assert status(give(router, request(call_id="c2"))) == 100
    assert status(give(router, request(call_id="c2"))) == 100  # retransmission, waits once
    assert status(give(router, request(call_id="c3"))) == 100
    assert status(give(router, request(call_id="c4"))) == 100
    assert router.waiting == 3 and router.next_deadline() == 100 * MS
    assert router.poll(99 * MS) == []
    released = [parse(send.data).call_id for send in router.poll(100 * MS)]
    assert released == [b"c2", b"c3"]
    assert router.next_deadline() == 200 * MS
    (last,) = router.poll(200 * MS)
    assert parse(last.data).call_id == b"c4" and router.waiting == 0


def test_queue_is_bounded_by_length_room_and_time() -> None:
    router = edge(workers=1, capacity=10, spacing_ms=100, queue_length=2, queue_wait_ns=150 * MS)
    start(router, "c0")
    assert [status(give(router, request(call_id=f"c{n}"))) for n in (1, 2, 3)] == [100, 100, 503]
    router.poll(100 * MS)
    (late,) = router.poll(150 * MS)
    assert parse(late.data).call_id == b"c2" and status([late]) == 503
    tight = edge(workers=1, capacity=2, spacing_ms=100)
    start(tight, "c0")
    assert [status(give(tight, request(call_id=f"c{n}"))) for n in (1, 2)] == [100, 503]


def test_cancel_of_a_waiting_invite_is_answered_by_the_edge() -> None:
    router = edge(workers=1, spacing_ms=100)
    start(router, "c0")
    give(router, request())
    sends = give(router, request("CANCEL"))
    assert [parse(s.data).start_line[8:11] for s in sends] == [b"200", b"487"]
    assert router.waiting == 0 and router.poll(SECOND_NS) == []


def test_draining_refuses_what_waits() -> None:
    router = edge(workers=1, spacing_ms=100)
    start(router, "c0")
    give(router, request())
    router.drain()
    assert status(router.poll(0)) == 503


# ---- Time and death ----


def test_unanswered_invite_expires_after_180_s() -> None:
    router = edge()
    worker, forwarded = start(router)
    assert router.next_deadline() == 180 * SECOND_NS
    cancel, timeout = router.poll(180 * SECOND_NS)
    assert cancel.flow == worker and parse(cancel.data).via.branch == forwarded.via.branch
    assert timeout.flow == ALICE and status([timeout]) == 408
    assert sum(router.workers.loads().values()) == 0
    router.poll(212 * SECOND_NS)
    assert router.next_deadline() is None
    assert give(router, request("ACK", to_tag="w")) == []


def test_answer_without_ack_expires_and_with_it_stays() -> None:
    router = edge()
    worker, forwarded = start(router)
    give(router, answer(forwarded, 200, body=SDP), worker)
    establish(router, "c2")
    router.poll(64 * SECOND_NS)
    assert sum(router.workers.loads().values()) == 1
    router.poll(10_000 * SECOND_NS)
    assert sum(router.workers.loads().values()) == 1


def test_bye_that_nobody_answers_frees_the_place() -> None:
    router = edge()
    establish(router)
    give(router, request("BYE", cseq=2, to_tag="w"), now=SECOND_NS)
    router.poll(65 * SECOND_NS)
    assert sum(router.workers.loads().values()) == 0


def test_call_ended_by_the_worker_counts_once() -> None:
    router = edge()
    establish(router)
    for _ in range(2):
        router.call_ended(b"c1", 0)
    router.call_ended(b"unknown", 0)
    assert sum(router.workers.loads().values()) == 0 and router.counters.calls_ended == 1


def test_dead_worker_gives_503_to_pending_and_481_to_confirmed_calls() -> None:
    router = edge(workers=1)
    establish(router, "live")
    start(router, "ringing")
    assert sorted(router.remove_worker("w0")) == [b"live", b"ringing"]
    flow, refusal = one(router.poll(0))
    assert flow == ALICE and isinstance(refusal, Response)
    assert (refusal.status, refusal.call_id) == (503, b"ringing")
    assert status(give(router, request("BYE", "live", cseq=2, to_tag="w"))) == 481
    router.add_worker(WorkerAddress("w0", "127.0.0.1", 6000, 4))
    start(router, "new")
    with pytest.raises(KeyError):
        router.remove_worker("w7")


def test_worker_addresses_are_unique_and_on_loopback() -> None:
    router = edge(workers=1)
    for name, port in (("w0", 6001), ("w1", 6000)):
        with pytest.raises(ValueError, match="already"):
            router.add_worker(WorkerAddress(name, "127.0.0.1", port, 4))
    with pytest.raises(ValueError, match="loopback"):
        WorkerAddress("x", "192.0.2.1", 6000, 4)


def test_adopted_call_learns_its_flow_from_the_peer() -> None:
    router = edge()
    assert router.adopt_call("w1", b"c1", None, 0)
    assert not router.adopt_call("w1", b"c1", None, 0)
    assert router.workers.loads()["w1"] == 1
    by_name = worker_request("BYE", "c1", worker_flow(1), []).replace(b"@198.51.100.1 ", b"@host.example ")
    assert status(give(router, by_name, worker_flow(1))) == 480
    numeric = worker_request("INFO", "c1", worker_flow(1), [b"<sip:192.0.2.50:5070;lr>"])
    assert one(give(router, numeric, worker_flow(1)))[0] == Flow("udp", "192.0.2.50", 5070)
    assert one(give(router, request("UPDATE", cseq=5, to_tag="w"), BOB_TCP))[0] == worker_flow(1)
    flow, bye = one(give(router, worker_request("BYE", "c1", worker_flow(1), []), worker_flow(1)))
    assert flow == BOB_TCP and isinstance(bye, Request)
    assert one(give(router, answer(bye, 200), BOB_TCP))[0] == worker_flow(1)
    assert router.workers.loads()["w1"] == 0


# ---- Unlucky input ----

SENSIBLE = {
    "badvers": 505, "bext01": 420, "clerr": 400, "insuf": 400, "invut": 415, "lwsruri": 400, "ltgtruri": 400,
    "mcl01": 400, "mismatch01": 400, "mismatch02": 400, "multi01": 400, "ncl": 400, "novelsc": 416,
    "quotbal": 400, "regaut01": 405, "scalar02": 400, "unkscm": 416, "zeromf": 483, "escruri": 400,
    "trws": 400, "lwsstart": 400, "regbadct": 400, "badbranch": 200,
    "semiuri": 200, "lwsdisp": 200, "transports": 200, "dblreq": 405, "mpart01": 405,
    "wsinv": 481, "esc02": 501,
}  # fmt: skip


@pytest.mark.skipif(not RFC4475.is_dir(), reason=f"the RFC 4475 messages are not at {RFC4475}")
@pytest.mark.parametrize("path", sorted(RFC4475.glob("*/*.dat")), ids=lambda path: path.stem)
def test_rfc4475_through_parser_and_router(path: Path) -> None:
    for source in (ALICE, BOB_TCP, worker_flow(0)):
        router = edge()
        sends = give(router, path.read_bytes(), source)
        assert len(sends) <= 1
        if source == ALICE and path.stem in SENSIBLE:  # the echoed headers may be as broken as they came
            assert [send.data[:12] for send in sends] == [b"SIP/2.0 %d " % SENSIBLE[path.stem]]
        if path.parent.name == "invalid" and source != worker_flow(0):
            admitted = router.counters.calls_admitted
            assert admitted == 0 or path.stem in ("baddate", "inv2543", "sdp01")  # the UAS may take these
        if path.stem == "esc01":
            assert router.counters.calls_admitted == (source != worker_flow(0))


def test_mutated_messages_never_raise_and_never_lose_count() -> None:
    rng = random.Random(3261)
    router = edge(capacity=50)
    worker, forwarded = start(router, "c1")
    seeds = [
        request(), request("BYE", cseq=2, to_tag="w"), request("CANCEL"), request("ACK", to_tag="w"),
        request("INFO", cseq=3, to_tag="w", body=b"5", kind="application/dtmf"), request("OPTIONS", "o"),
        answer(forwarded, 200, body=SDP), answer(forwarded, 486),
        request(call_id="c2", extra=b"Route: <sip:198.51.100.1;lr>, <sip:a@b>\r\nRecord-Route: <sip:q>\r\n"),
        worker_request("BYE", "c1", worker, [b"<sip:127.0.0.1:5999;lr>"]),
    ]  # fmt: skip
    for number in range(5_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data))
            choice = rng.randrange(3)
            if choice == 0:
                data[at] = rng.randrange(256)
            elif choice == 1:
                del data[at : at + rng.randrange(12)]
            else:
                data[at:at] = rng.choice([b"\r\n", b";", b",", b'"', b"<", b">", b":", b" ", b"0", b"\r\n "])
        give(router, bytes(data), rng.choice([ALICE, BOB_TCP, MALLORY, worker, worker_flow(2)]), number * MS)
        router.poll(number * MS)
    router.poll(10_000 * SECOND_NS)
    assert all(load >= 0 for load in router.workers.loads().values())
