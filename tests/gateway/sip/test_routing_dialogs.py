# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each later message of a call goes, and how a call ends.  No socket, no clock."""

import pytest

from gateway.sip.flows import Flow
from gateway.sip.header import find
from gateway.sip.load import WorkerAddress
from gateway.sip.message import Request, Response, parse
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
    start,
    status,
    worker_flow,
    worker_request,
)

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


@pytest.mark.parametrize("kind", ["application/dtmf", "application/dtmf-relay"])
@pytest.mark.parametrize(
    ("text", "digit", "lasts"),
    [
        (b"5", b"5", 160),
        (b"#\r\n", b"#", 160),
        (b"10", b"*", 160),
        (b"Signal= 7\r\nDuration=90\r\n", b"7", 90),
        (b"Signal = 11 \nduration : 250\n", b"#", 250),
        (b"Duration=80\r\nSignal=d", b"D", 80),
    ],
)
def test_dtmf_info_is_rewritten_to_relay(kind: str, text: bytes, digit: bytes, lasts: int) -> None:
    router = edge()
    establish(router)
    data = request("INFO", cseq=2, to_tag="w", body=text, kind=kind)
    _, info = one(give(router, data))
    assert find(info.headers, b"content-type") == b"application/dtmf-relay"
    assert info.body == b"Signal=%b\r\nDuration=%d\r\n" % (digit, lasts)


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


# ---- Families of sound ----

SDP6 = SDP.replace(b"IN IP4 192.0.2.1\r\nt=", b"IN IP6 2001:db8::1\r\nt=")


def marked(forwarded: Request | Response) -> bool:
    return find(forwarded.headers, b"x-microturn-sound") == b"ip6"


@pytest.mark.parametrize(("offer", "other"), [(SDP, SDP6), (SDP6, SDP)])
def test_a_call_has_the_family_that_it_was_offered_and_keeps_it(offer: bytes, other: bytes) -> None:
    router = edge(sound6=True)
    worker, forwarded = one(give(router, request(body=offer)))
    assert marked(forwarded) is (offer is SDP6) and isinstance(forwarded, Request)
    give(router, answer(forwarded, 200, body=offer), worker)
    give(router, request("ACK", branch="z9hG4bKack", to_tag="w"))
    for cseq, method in enumerate(("INVITE", "UPDATE"), 2):
        assert status(give(router, request(method, cseq=cseq, to_tag="w", body=other))) == 488
    again = one(give(router, request(cseq=4, to_tag="w", body=offer)))[1]
    assert isinstance(again, Request) and not marked(again), "a mark is for the beginning"


def test_without_ipv6_it_is_refused_and_nobody_marks_a_call_by_himself() -> None:
    router = edge()
    assert status(give(router, request(body=SDP6))) == 488
    router = edge(sound6=True)
    _, forwarded = one(give(router, request(extra=b"X-Microturn-Sound: ip6\r\n")))
    assert not marked(forwarded)
    late = one(give(router, request(call_id="c2", body=b"")))[1]
    assert isinstance(late, Request) and not marked(late)


@pytest.mark.parametrize("sound6", [True, False])
def test_an_adopted_call_keeps_its_family_too(sound6: bool) -> None:
    router = edge(sound6=True)
    assert router.adopt_call("w1", b"c1", None, 0, sound6=sound6)
    offers = {True: SDP6, False: SDP}
    refused = give(router, request(cseq=5, to_tag="w", body=offers[not sound6]), BOB_TCP)
    assert status(refused) == 488
    assert one(give(router, request(cseq=6, to_tag="w", body=offers[sound6]), BOB_TCP))[0] == worker_flow(1)
