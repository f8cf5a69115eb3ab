# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of ours through the router: a worker dials a ticket, the trunk sees a call.  No socket, no clock."""

from __future__ import annotations

import pytest

from gateway.sip.digest import Challenge, Login, authorization, parameters
from gateway.sip.flows import Flow
from gateway.sip.header import find
from gateway.sip.message import Request, Response
from gateway.sip.routing import Router
from gateway.sip.sdp_policy import Policy
from gateway.sip.targets import Target
from gateway.sip.tickets import Ticket
from gateway.sip.timers import SECOND_NS
from tests.gateway.sip.test_transfers import invite
from tests.support.sip_router import ALICE, SDP, answer, edge, establish, give, one, request, status

CARRIER = Flow("udp", "192.0.2.9", 5080)
TARGET = Target(b"sip:+4930123@sip.example", "192.0.2.9", 5080, "udp")
CALLER = b'"Hotline" <sip:49301@sip.example>'
WORKER = Flow("worker", "127.0.0.1", 6000)
LOGIN = Login("49301", "secret")


def placing(workers: int = 1, policy: Policy | None = None, **options: object) -> Router:
    return edge(workers, policy_of=lambda trunk: policy or Policy(), **options)  # type: ignore[arg-type]


def ticket_of(router: Router, now: int = 0) -> Ticket:
    ticket = router.issue(TARGET, CALLER, "carrier", now)
    assert ticket is not None
    return ticket


def placed(router: Router) -> tuple[Ticket, Request]:
    """A call on its way: its ticket, and the INVITE as the carrier sees it."""
    ticket = ticket_of(router)
    flow, sent = one(give(router, invite(ticket.uri, "out"), WORKER))
    assert isinstance(sent, Request) and flow == CARRIER
    return ticket, sent


def test_the_carrier_sees_the_number_and_who_calls_and_no_ticket() -> None:
    router = placing()
    ticket, sent = placed(router)
    assert sent.uri == TARGET.uri and find(sent.headers, b"to") == b"<%b>" % TARGET.uri
    assert find(sent.headers, b"from") == CALLER + b";tag=f"
    assert b"call-" not in b"".join(h.raw for h in sent.headers if h.name != b"via")
    assert router.counters.calls_placed == 1 and router.workers.loads()["w0"] == 1
    _, ok = one(give(router, answer(sent, 200, tag="carol", body=SDP), CARRIER))
    assert isinstance(ok, Response)
    give(router, invite(ticket.uri, "out", "ACK", tag=b"carol", branch=b"a"), WORKER)
    assert (router.counters.placed_answered, router.counters.transfers_answered) == (1, 0)
    assert router.owner(b"out") == "w0" and router.live() == [b"out"]
    flow, bye = one(give(router, request("BYE", "out", to_tag="f", via="192.0.2.9:5080"), CARRIER))
    assert flow == WORKER and isinstance(bye, Request)
    give(router, answer(bye, 200), WORKER)
    assert router.owner(b"out") is None


def test_a_ticket_is_good_once_for_one_worker_and_not_for_ever() -> None:
    router = placing(2)
    ticket, _ = placed(router)
    assert status(give(router, invite(ticket.uri, "again"), WORKER)) == 403
    other = ticket_of(router)
    stranger = Flow("worker", "127.0.0.1", 6000 if other.worker == "w1" else 6001)
    assert status(give(router, invite(other.uri, "x"), stranger)) == 403
    old = ticket_of(router)
    owner = Flow("worker", "127.0.0.1", 6000 if old.worker == "w0" else 6001)
    assert status(give(router, invite(old.uri, "y"), owner, 64 * SECOND_NS)) == 403
    revoked = ticket_of(router, 64 * SECOND_NS)
    router.tickets.revoke(revoked)
    assert len(router.tickets) == 0


def test_a_ticket_may_be_for_one_worker_alone() -> None:
    router = edge(2, capacity=1)
    assert router.workers.room_at("w1") == 1 and router.workers.room_at("gone") == 0
    ticket = router.issue(TARGET, CALLER, "carrier", 0, "w1")
    assert ticket is not None and ticket.worker == "w1"
    assert router.issue(TARGET, CALLER, "carrier", 0, "w1") is None, "the other one has room"
    assert router.issue(TARGET, CALLER, "carrier", 0, "gone") is None
    other = router.issue(TARGET, CALLER, "carrier", 0, "w0")
    assert other is not None and other.worker == "w0"


def test_no_more_tickets_than_places() -> None:
    router = edge(1, capacity=2)
    establish(router)
    assert router.issue(TARGET, CALLER, "carrier", 0) is not None
    assert router.issue(TARGET, CALLER, "carrier", 0) is None, "one call lives, one is on its way"
    assert router.issue(TARGET, CALLER, "carrier", 65 * SECOND_NS) is not None, "that one never came"
    router.drain()
    assert router.issue(TARGET, CALLER, "carrier", 200 * SECOND_NS) is None


@pytest.mark.parametrize(
    ("code", "asks", "name"),
    [
        (401, b"WWW-Authenticate", b"Authorization"),
        (407, b"Proxy-Authenticate", b"Proxy-Authorization"),
    ],
)
def test_a_challenge_is_answered_with_the_trunks_password_and_the_real_address(
    code: int, asks: bytes, name: bytes
) -> None:
    router = placing(policy=Policy(login=LOGIN))
    ticket, sent = placed(router)
    challenge = b'%b: Digest realm="sip.example", nonce="n1", algorithm=MD5, qop="auth"\r\n' % asks
    data = answer(sent, code, tag="carol").replace(b"Content-Length", challenge + b"Content-Length")
    assert one(give(router, data, CARRIER))[0] == WORKER
    ack = invite(ticket.uri, "out", "ACK", tag=b"carol")
    assert one(give(router, ack, WORKER))[0] == CARRIER
    told = Challenge("sip.example", "n1", "MD5", "auth")
    theirs = authorization(told, Login("microturn", "-"), "INVITE", ticket.uri.decode(), 1, "c")
    again = invite(ticket.uri, "out", cseq=8, branch=b"again", extra=name + b": " + theirs + b"\r\n")
    flow, second = one(give(router, again, WORKER))
    assert flow == CARRIER and isinstance(second, Request)
    right = authorization(told, LOGIN, "INVITE", TARGET.uri.decode(), 1, "c")
    assert parameters(find(second.headers, name.lower()) or b"") == parameters(right)
    _, ok = one(give(router, answer(second, 200, tag="carol", body=SDP), CARRIER))
    assert isinstance(ok, Response)
    assert router.counters.placed_answered == 1 and router.workers.loads()["w0"] == 1


def test_a_challenge_on_a_trunk_without_password_ends_the_call() -> None:
    router = placing()
    _, sent = placed(router)
    give(router, answer(sent, 401, tag="carol"), CARRIER)
    assert router.workers.loads()["w0"] == 0


def test_a_call_that_is_challenged_and_given_up_is_over_when_the_worker_says_so() -> None:
    router = placing(policy=Policy(login=LOGIN))
    _, sent = placed(router)
    give(router, answer(sent, 407, tag="carol"), CARRIER)
    assert router.workers.loads()["w0"] == 1
    router.call_ended(b"out", 1)
    assert router.workers.loads()["w0"] == 0


def test_codecs_of_the_trunk_are_all_that_is_offered() -> None:
    router = placing(policy=Policy(("PCMA",)))
    ticket = ticket_of(router)
    offer = SDP.replace(b"RTP/AVP 0", b"RTP/AVP 0 8")
    data = invite(ticket.uri, "out").replace(SDP, offer)
    data = data.replace(b"Content-Length: %d" % len(SDP), b"Content-Length: %d" % len(offer))
    _, sent = one(give(router, data, WORKER))
    assert b"RTP/AVP 8\r\n" in sent.body and find(sent.headers, b"content-length") == b"%d" % len(sent.body)


def test_codecs_of_a_trunk_that_calls_us() -> None:
    router = edge(1, policy=lambda request: Policy(("PCMA",)))
    assert status(give(router, request())) == 488
    offer = SDP.replace(b"RTP/AVP 0", b"RTP/AVP 0 8")
    flow, passed = one(give(router, request(call_id="c2", body=offer)))
    assert flow == WORKER and b"RTP/AVP 8\r\n" in passed.body
    _, again = one(give(router, request(call_id="c2", body=offer)))  # a retransmission is the same
    assert again.body == passed.body
    assert isinstance(passed, Request)
    give(router, answer(passed, 200, body=offer.replace(b"0 8", b"8")), WORKER)
    reinvite = request("INVITE", "c2", cseq=2, to_tag="w", body=SDP)
    assert status(give(router, reinvite)) == 488, "the call goes on as it was"
    assert router.owner(b"c2") == "w0"


def test_late_offer_of_ours_is_limited_too() -> None:
    router = edge(1, policy=lambda request: Policy(("PCMA",)))
    _, passed = one(give(router, request(body=b"")))
    assert isinstance(passed, Request)
    flow, ok = one(give(router, answer(passed, 200, body=SDP.replace(b"RTP/AVP 0", b"RTP/AVP 0 8")), WORKER))
    assert flow == ALICE and b"RTP/AVP 8\r\n" in ok.body
    assert find(ok.headers, b"content-length") == b"%d" % len(ok.body)
