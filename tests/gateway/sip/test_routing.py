# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets a call, and when: load, bands and spacing.  No socket, no clock."""

from collections import Counter

from gateway.sip.admission import Refusal
from gateway.sip.flows import Flow
from gateway.sip.header import Header, find
from gateway.sip.load import WorkerAddress
from gateway.sip.marks import persona_mark, persona_of, tenant_mark, tenant_of
from gateway.sip.message import Request, Response, parse
from gateway.sip.routing import Router
from gateway.sip.timers import SECOND_NS
from tests.support.sip_router import (
    ALICE,
    MS,
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
)

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
    assert status(give(router, request("OPTIONS", "asked"))) == 503, "proxies that ask send calls elsewhere"
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


def test_only_the_edge_tells_a_worker_what_a_call_is() -> None:
    router = edge(marks=lambda asked: persona_mark("every 5; ünd") if asked.call_id == b"c1" else ())
    forged = request(extra=b"X-Microturn-Persona: forged\r\nX-MICROTURN-Other: x\r\nX-Own: kept\r\n")
    for _ in range(2):  # a retransmission may be the first that arrives
        ((_, data),) = give(router, forged)
        assert persona_of(data.decode()) == "every 5; ünd" and data.lower().count(b"x-microturn-") == 1
        assert b"X-Own: kept" in data
    forged = request(call_id="c2", extra=b"X-Microturn-Persona: forged\r\nX-Microturn-Tenant: forged\r\n")
    ((_, plain),) = give(router, forged)
    assert persona_of(plain.decode()) == tenant_of(plain.decode()) == "" and b"forged" not in plain
    (mark,) = tenant_mark("Grün & Co.")
    assert tenant_of(f"INVITE x SIP/2.0\r\nX-Microturn-Tenant: {mark.value.decode()}\r\n\r\n") == "Grün & Co."
    assert not tenant_mark("")


def test_full_table_is_503() -> None:
    router = edge(max_calls=2)
    start(router, "c1")
    start(router, "c2")
    assert status(give(router, request(call_id="c3"))) == 503


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
