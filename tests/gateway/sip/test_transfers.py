# SPDX-License-Identifier: GPL-3.0-or-later
"""REFER through the router, and the calls that workers begin for it.  No socket, no clock."""

import pytest

from gateway.sip.flows import Flow, Send
from gateway.sip.header import find
from gateway.sip.message import Request, Response, parse
from gateway.sip.routing import Router
from gateway.sip.targets import Targets
from gateway.sip.timers import SECOND_NS
from tests.support.sip_router import (
    ALICE,
    BOB_TCP,
    MALLORY,
    SDP,
    answer,
    edge,
    establish,
    give,
    one,
    request,
    routes,
    status,
)

CAROL = Flow("udp", "192.0.2.50", 5080)
CAROL_TCP = Flow("tcp", "192.0.2.50", 5080, 9)
CAROL_URI = b"sip:carol@192.0.2.50:5080"


def accepting(**options: object) -> Router:
    return edge(targets=Targets(["192.0.2.50", "carol.example"]), **options)  # type: ignore[arg-type]


def refer(target: bytes = CAROL_URI, cseq: int = 2, call_id: str = "c1", branch: str = "") -> bytes:
    extra = b"Refer-To: <%b>\r\n" % target
    return request("REFER", call_id, cseq=cseq, to_tag="w", extra=extra, branch=branch)


def referred(router: Router, target: bytes = CAROL_URI) -> tuple[Flow, bytes]:
    """A call that asked: its worker, and the token in place of the target."""
    worker, _ = establish(router)
    flow, passed = one(give(router, refer(target)))
    assert isinstance(passed, Request) and flow == worker
    assert one(give(router, answer(passed, 202), worker))[0] == ALICE
    value = find(passed.headers, b"refer-to")
    assert value is not None
    return worker, value.strip(b"<>")


def invite(token: bytes, call_id: str = "child", method: str = "INVITE", *, tag: bytes = b"", uri: bytes = b"",
           cseq: int = 7, branch: bytes = b"b", extra: bytes = b"") -> bytes:  # fmt: skip
    """What the worker at 6000 sends in the call that it begins."""
    body = SDP if method == "INVITE" else b""
    kind = b"Content-Type: application/sdp\r\n" if body else b""
    return (
        b"%b %b SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:6000;rport;branch=z9hG4bK%b\r\nMax-Forwards: 70\r\n"
        b"From: <sip:microturn@127.0.0.1:6000>;tag=f\r\nTo: <%b>%b\r\nCall-ID: %b\r\nCSeq: %d %b\r\n%b%b"
        b"Contact: <sip:microturn@127.0.0.1:6000>\r\nContent-Length: %d\r\n\r\n"
        % (method.encode(), uri or token, branch, token, b";tag=" + tag if tag else b"", call_id.encode(), cseq,
           method.encode(), kind, extra, len(body))
    ) + body  # fmt: skip


def begun(router: Router, target: bytes = CAROL_URI) -> tuple[Flow, bytes, Request]:
    """A child call that was sent along CAROL: worker, token, and the INVITE as the target sees it."""
    worker, token = referred(router, target)
    flow, sent = one(give(router, invite(token), worker))
    assert isinstance(sent, Request) and flow == CAROL
    return worker, token, sent


def test_the_target_is_called_by_its_own_name_and_no_token_is_seen() -> None:
    router = accepting()
    worker, token, sent = begun(router)
    assert token.startswith(b"sip:refer-") and token.endswith(b"@127.0.0.1:5999")
    assert sent.uri == CAROL_URI and find(sent.headers, b"to") == b"<" + CAROL_URI + b">"
    assert find(sent.headers, b"from") == b"<sip:microturn@198.51.100.1:5060>;tag=f"
    assert routes(sent, b"record-route") == [b"<sip:198.51.100.1:5060;lr>", b"<sip:127.0.0.1:5999;lr>"]
    assert router.workers.loads()["w0"] == 2
    again = give(router, invite(token), worker)  # a retransmission goes the same way, octet for octet
    assert one(again)[1].via.branch == sent.via.branch


def test_a_whole_begun_call() -> None:
    router = accepting()
    worker, token, sent = begun(router)
    assert status(give(router, answer(sent, 180, tag="carol"), CAROL)) == 180
    flow, ok = one(give(router, answer(sent, 200, tag="carol", body=SDP), CAROL))
    assert flow == worker and isinstance(ok, Response) and len(routes(ok, b"via")) == 1
    route = b"Route: <sip:127.0.0.1:5999;lr>\r\nRoute: <sip:198.51.100.1:5060;lr>\r\n"
    elsewhere = Flow("udp", "192.0.2.51", 5090)  # Contact of the target
    ack = invite(token, method="ACK", tag=b"carol", uri=b"sip:192.0.2.51:5090", branch=b"a", extra=route)
    flow, passed = one(give(router, ack, worker))
    assert flow == elsewhere and isinstance(passed, Request) and passed.uri == b"sip:192.0.2.51:5090"
    assert find(passed.headers, b"route") is None
    router.poll(10_000 * SECOND_NS)
    assert router.workers.loads()["w0"] == 2  # confirmed: no limit any more
    bye = invite(
        token, method="BYE", tag=b"carol", uri=b"sip:192.0.2.51:5090", cseq=8, branch=b"c", extra=route
    )
    _, passed = one(give(router, bye, worker))
    assert isinstance(passed, Request)
    assert status(give(router, answer(passed, 200), elsewhere)) == 200
    assert router.workers.loads()["w0"] == 1
    assert (router.counters.transfers_begun, router.counters.transfers_answered) == (1, 1)


def test_bye_of_the_target_reaches_the_worker() -> None:
    router = accepting()
    worker, _, sent = begun(router)
    give(router, answer(sent, 200, tag="carol", body=SDP), CAROL)
    flow, bye = one(give(router, request("BYE", "child", to_tag="f", via="192.0.2.50:5080"), CAROL))
    assert flow == worker and isinstance(bye, Request)
    assert one(give(router, answer(bye, 200), worker))[0] == CAROL
    assert router.workers.loads()["w0"] == 1


def test_refusal_frees_the_place_and_its_ack_and_a_new_refer_pass() -> None:
    router = accepting()
    worker, token, sent = begun(router)
    assert status(give(router, refer(cseq=3))) == 491
    assert status(give(router, answer(sent, 486, tag="carol"), CAROL)) == 486
    assert router.workers.loads()["w0"] == 1
    flow, ack = one(give(router, invite(token, method="ACK", tag=b"carol"), worker))
    assert flow == CAROL and ack.via.branch == sent.via.branch
    assert isinstance(ack, Request) and ack.uri == CAROL_URI
    assert one(give(router, refer(cseq=3)))[0] == worker
    assert give(router, invite(token, "other"), worker)[0].data.startswith(b"SIP/2.0 403")  # used up


def test_hostile_answer_reaches_the_worker_without_its_body() -> None:
    router = accepting()
    worker, _, sent = begun(router)
    hostile = SDP.replace(b"192.0.2.1", b"a" * 300)
    assert give(router, answer(sent, 183, tag="carol", body=hostile), CAROL) == []
    flow, ok = one(give(router, answer(sent, 200, tag="carol", body=hostile), CAROL))
    assert flow == worker and isinstance(ok, Response) and ok.status == 200
    assert ok.body == b"" and find(ok.headers, b"content-type") is None
    assert router.counters.screened == 2


def test_cancel_has_the_branch_and_the_uri_of_its_invite() -> None:
    router = accepting()
    worker, token, sent = begun(router)
    flow, cancel = one(give(router, invite(token, method="CANCEL"), worker))
    assert flow == CAROL and isinstance(cancel, Request)
    assert (cancel.uri, cancel.via.branch) == (CAROL_URI, sent.via.branch)
    assert one(give(router, answer(cancel, 200), CAROL))[0] == worker


def test_timer_c_cancels_the_target_and_tells_the_worker() -> None:
    router = accepting()
    worker, _, sent = begun(router)
    cancel, timeout = router.poll(180 * SECOND_NS)
    assert cancel.flow == CAROL and cancel.data.startswith(b"CANCEL " + CAROL_URI)
    assert parse(cancel.data).via.branch == sent.via.branch
    assert timeout.flow == worker and timeout.data.startswith(b"SIP/2.0 408")
    assert router.workers.loads()["w0"] == 1


def test_dead_worker_cancels_its_target() -> None:
    router = accepting()
    begun(router)
    assert sorted(router.remove_worker("w0")) == [b"c1", b"child"]
    (cancel,) = router.poll(0)
    assert cancel.flow == CAROL and cancel.data.startswith(b"CANCEL ")


@pytest.mark.parametrize(
    ("target", "code"), [(b"sip:x@192.0.2.51", 403), (b"sips:x@192.0.2.50", 403), (b"mailto:x@y", 403)]
)
def test_target_that_is_not_allowed(target: bytes, code: int) -> None:
    router = accepting()
    establish(router)
    assert status(give(router, refer(target))) == code
    assert router.counters.transfers_refused == 1


def test_refer_without_target_or_room() -> None:
    router = accepting(workers=1, capacity=1)
    establish(router)
    assert status(give(router, request("REFER", cseq=2, to_tag="w"))) == 400
    assert status(give(router, refer())) == 503


def test_retransmitted_refer_has_the_same_token_and_a_refused_one_is_pending_no_more() -> None:
    router = accepting()
    worker, _ = establish(router)
    _, first = one(give(router, refer()))
    _, again = one(give(router, refer()))
    assert find(first.headers, b"refer-to") == find(again.headers, b"refer-to")
    assert isinstance(again, Request)
    assert status(give(router, refer(cseq=3))) == 491
    give(router, answer(again, 491), worker)
    assert one(give(router, refer(cseq=4)))[0] == worker


def test_no_worker_calls_whom_it_was_not_given() -> None:
    router = accepting()
    _, token = referred(router)
    other = Flow("worker", "127.0.0.1", 6001)
    for stranger, uri in ((other, token), (Flow("worker", "127.0.0.1", 6000), b"sip:x@192.0.2.50")):
        (refusal,) = give(router, invite(uri), stranger)
        assert refusal.flow == stranger and refusal.data.startswith(b"SIP/2.0 403")
    worker = Flow("worker", "127.0.0.1", 6000)
    assert status(give(router, invite(token), worker, 64 * SECOND_NS)) == 403  # too late
    assert give(router, invite(token), MALLORY) and router.begun.take_dials() == []


def dialling(router: Router) -> tuple[Flow, bytes]:
    worker, token = referred(router, b"sip:carol@carol.example;transport=tcp")
    assert give(router, invite(token), worker) == []
    (dial,) = router.begun.take_dials()
    assert (dial.call_id, dial.target.host, dial.target.transport) == (b"child", "carol.example", "tcp")
    return worker, token


def test_invite_waits_for_its_connection() -> None:
    router = accepting()
    worker, token = dialling(router)
    assert give(router, invite(token), worker) == []  # retransmitted meanwhile
    router.begun.dialled(b"child", CAROL_TCP)
    flow, sent = one(router.poll(0))
    assert flow == CAROL_TCP and sent.via.transport == b"TCP"
    assert routes(sent, b"record-route")[0] == b"<sip:198.51.100.1:5060;transport=tcp;lr>"
    assert router.flow_in_use(CAROL_TCP)


def test_target_that_cannot_be_reached_is_503_to_the_worker() -> None:
    router = accepting()
    worker, token = dialling(router)
    router.begun.dialled(b"child", None)
    flow, refusal = one(router.poll(0))
    assert flow == worker and isinstance(refusal, Response) and refusal.status == 503
    assert give(router, invite(token, method="ACK", tag=b"x"), worker) == []
    assert router.workers.loads()["w0"] == 1


def test_cancel_while_dialling_is_answered_by_the_edge() -> None:
    router = accepting()
    worker, token = dialling(router)
    sends: list[Send] = give(router, invite(token, method="CANCEL"), worker)
    assert [send.data[8:11] for send in sends] == [b"200", b"487"]
    router.begun.dialled(b"child", CAROL_TCP)  # too late
    assert router.poll(0) == []


def test_connection_that_closes_before_the_answer_is_503() -> None:
    router = accepting()
    worker, _ = dialling(router)
    router.begun.dialled(b"child", CAROL_TCP)
    router.poll(0)
    router.flow_closed(CAROL_TCP)
    flow, refusal = one(router.poll(0))
    assert flow == worker and isinstance(refusal, Response) and refusal.status == 503


def test_nobody_takes_the_place_of_a_target_that_is_being_dialled() -> None:
    router = accepting()
    dialling(router)
    give(router, request("INFO", "child", to_tag="f", via="203.0.113.66:5060"), MALLORY)
    router.begun.dialled(b"child", BOB_TCP)
    assert router.poll(0)[-1].flow == BOB_TCP
