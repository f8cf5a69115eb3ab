# SPDX-License-Identifier: GPL-3.0-or-later
"""By which way a message leaves: Via, and the connections of TCP and TLS.  No socket, no clock."""

import pytest

from gateway.sip.flows import Flow
from gateway.sip.header import find
from gateway.sip.message import Request, parse
from gateway.sip.timers import SECOND_NS
from tests.support.sip_router import (
    ALICE,
    BOB_TCP,
    CAROL_TLS,
    MALLORY,
    SDP,
    answer,
    edge,
    establish,
    give,
    one,
    request,
    routes,
    start,
    status,
    worker_flow,
    worker_request,
)

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


# ---- TCP ----


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


# ---- TLS ----


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
