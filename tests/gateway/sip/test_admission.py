# SPDX-License-Identifier: GPL-3.0-or-later
"""New calls about which somebody else is asked first: held, decided later, and never lost.  No socket, no clock."""

from gateway.sip.admission import Later, Refusal
from gateway.sip.header import Header, find
from gateway.sip.message import Request, Response
from gateway.sip.routing import Router
from gateway.sip.timers import SECOND_NS
from tests.support.sip_router import ALICE, answer, edge, give, one, request, status

NONE_YET = Refusal(480, "Too Many Calls", (Header.make(b"Retry-After", b"2"),))


def asking(**settings: object) -> Router:
    return edge(admit=lambda request: Later(), **settings)  # type: ignore[arg-type]


def test_an_invite_is_held_until_it_is_decided_and_then_goes_to_a_worker() -> None:
    router = asking()
    assert status(give(router, request(call_id="c1"))) == 100
    assert status(give(router, request(call_id="c1"))) == 100  # the same again: still held
    assert router.waiting == 1 and router.knows(b"c1")
    flow, invite = one(router.decide(b"c1", None, 5))
    assert flow.kind == "worker" and isinstance(invite, Request) and invite.method == b"INVITE"
    assert router.waiting == 0 and router.knows(b"c1")
    assert router.decide(b"c1", None, 6) == []  # once is enough


def test_set_up_is_from_the_invites_arrival_to_its_200_however_long_it_was_held() -> None:
    router = asking()
    give(router, request(call_id="c1"), now=SECOND_NS)
    flow, invite = one(router.decide(b"c1", None, 2 * SECOND_NS))
    assert isinstance(invite, Request) and router.setup.report() == {}
    give(router, answer(invite, 180), flow, 3 * SECOND_NS)
    assert router.setup.report() == {}
    give(router, answer(invite, 200), flow, 3 * SECOND_NS + 500_000_000)
    assert router.setup.report() == {"setup_telephone|9": 1, "setup_telephone|sum": 2_500_000}


def test_a_refusal_that_comes_later_says_what_it_is_told() -> None:
    router = asking()
    give(router, request(call_id="c1"))
    _, refusal = one(router.decide(b"c1", NONE_YET, 5))
    assert isinstance(refusal, Response) and refusal.status == 480
    assert find(refusal.headers, b"retry-after") == b"2" and router.counters.refused_by_hook == 1
    assert not router.knows(b"c1") and sum(router.workers.loads().values()) == 0


def test_a_caller_that_gives_up_meanwhile_is_not_called_back() -> None:
    router = asking()
    give(router, request(call_id="c1"))
    cancelled = give(router, request("CANCEL", call_id="c1"))
    assert len(cancelled) == 2 and not router.knows(b"c1")  # 200 of the CANCEL, 487 of the INVITE
    assert router.decide(b"c1", None, 5) == [] and sum(router.workers.loads().values()) == 0


def test_nobody_waits_for_ever_and_not_too_many_wait() -> None:
    router = asking(queue_length=2, queue_wait_ns=SECOND_NS)
    assert [status(give(router, request(call_id=f"c{n}"))) for n in range(3)] == [100, 100, 503]
    assert router.next_deadline() == SECOND_NS
    sent = router.poll(SECOND_NS)
    assert len(sent) == 2 and router.counters.refused_busy == 3 and router.next_deadline() is None
    assert router.decide(b"c0", None, SECOND_NS) == []


def test_draining_and_a_closed_connection_let_go_of_what_is_held() -> None:
    router = asking()
    give(router, request(call_id="c1"))
    router.drain()
    assert [status([send]) for send in router.poll(1)] == [503] and not router.knows(b"c1")
    router = asking()
    give(router, request(call_id="c1"))
    router.flow_closed(ALICE)
    assert router.decide(b"c1", None, 5) == []
