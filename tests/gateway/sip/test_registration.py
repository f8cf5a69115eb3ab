# SPDX-License-Identifier: GPL-3.0-or-later
"""A registration over hours in no time: challenged, refreshed, refused, lost."""

from __future__ import annotations

import pytest

from gateway.sip.digest import Login, parameters, response_of
from gateway.sip.flows import Flow
from gateway.sip.header import find
from gateway.sip.message import Request, Response, parse
from gateway.sip.registration import Registrar, RegistrationState, Registree
from gateway.sip.targets import Target
from gateway.sip.timers import SECOND_NS
from tests.support.sip_router import answer

CARRIER = Flow("udp", "192.0.2.9", 5060)
TCP = Flow("tcp", "192.0.2.9", 5060, 3)
LOGIN = Login("49301", "secret")
CHALLENGE = b'WWW-Authenticate: Digest realm="sip.example", nonce="n%d", algorithm=MD5, qop="auth"\r\n'


class Line:
    """One registration, its clock, and a registrar that does what it is told."""

    def __init__(self, transport: str = "udp", password: str = LOGIN.password) -> None:
        target = Target(b"sip:sip.example", "192.0.2.9", 5060, transport)  # type: ignore[arg-type]
        wish = Registree("carrier", target, "49301", Login("49301", password), 300)
        self.flow = TCP if transport == "tcp" else CARRIER
        self.registrar = Registrar(b"k" * 32, ("198.51.100.1", 5060), {"carrier": wish}, 0)
        self.now_s = 0.0

    def run(self, until_s: float = 0) -> list[Request]:
        """Time passes; what was sent meanwhile."""
        sent: list[Request] = []
        while True:
            self.registrar.poll(round(self.now_s * SECOND_NS))
            for dial in self.registrar.take_dials():
                self.registrar.dialled(dial.call_id, self.flow, round(self.now_s * SECOND_NS))
            for send in self.registrar.take():
                assert send.flow == self.flow
                message = parse(send.data)
                assert isinstance(message, Request)
                sent.append(message)
            due_ns = self.registrar.next_deadline()
            if due_ns is None or due_ns / SECOND_NS > until_s:
                self.now_s = max(self.now_s, until_s)
                return sent
            self.now_s = max(self.now_s, due_ns / SECOND_NS)

    def reply(self, to: Request, status: int, extra: bytes = b"") -> None:
        data = answer(to, status).replace(b"Content-Length", extra + b"Content-Length")
        message = parse(data)
        assert isinstance(message, Response)
        self.registrar.receive(message, round(self.now_s * SECOND_NS))

    @property
    def state(self) -> RegistrationState | None:
        return self.registrar.state_of("carrier")


def test_challenged_registered_and_refreshed_with_the_same_nonce() -> None:
    line = Line()
    (first,) = line.run()
    assert (first.uri, find(first.headers, b"contact")) == (
        b"sip:sip.example", b"<sip:49301@198.51.100.1:5060>;expires=300",
    )  # fmt: skip
    assert line.registrar.knows(first.call_id) and find(first.headers, b"authorization") is None
    line.reply(first, 401, CHALLENGE % 1)
    (second,) = line.run()
    told = parameters(find(second.headers, b"authorization") or b"")
    expected = response_of(
        "MD5", LOGIN, "sip.example", "n1", "REGISTER", "sip:sip.example", "auth", "00000001", told["cnonce"]
    )
    assert told["response"] == expected and second.cseq == first.cseq + 1
    assert second.via.branch != first.via.branch and second.call_id == first.call_id
    line.reply(second, 200, b"Contact: <sip:49301@198.51.100.1:5060>;expires=120\r\n")
    assert line.state is RegistrationState.REGISTERED and line.registrar.registered == 1
    assert line.registrar.trunk_at("192.0.2.9") == "carrier"
    assert line.run(95) == []
    (refresh,) = line.run(96)
    assert parameters(find(refresh.headers, b"authorization") or b"")["nc"] == "00000002"
    line.reply(refresh, 401, CHALLENGE.replace(b"qop", b"stale=true, qop") % 2)
    (again,) = line.run(96)
    assert parameters(find(again.headers, b"authorization") or b"")["nonce"] == "n2"
    line.reply(again, 200, b"Expires: 60\r\n")
    assert line.registrar.counters.registered == 2 and line.registrar.counters.refused == 0


def test_a_wrong_password_is_tried_again_ever_more_seldom() -> None:
    line = Line()
    (request,) = line.run()
    waits: list[float] = []
    for _ in range(9):
        line.reply(request, 401, CHALLENGE % 1)
        (answered,) = line.run(line.now_s)
        line.reply(answered, 401, CHALLENGE % 2)
        assert line.state is RegistrationState.FAILED and line.registrar.registered == 0
        due_ns = line.registrar.next_deadline()
        assert due_ns is not None
        waits.append(due_ns / SECOND_NS - line.now_s)
        (request,) = line.run(due_ns / SECOND_NS)
    assert waits == [15, 30, 60, 120, 240, 480, 960, 1800, 1800]
    assert line.registrar.counters.refused == 9


def test_no_password_answers_no_challenge() -> None:
    line = Line(password="")
    line.reply(line.run()[0], 401, CHALLENGE % 1)
    assert line.state is RegistrationState.FAILED


def test_nobody_answers() -> None:
    line = Line()
    sent = line.run(31.9)
    assert len(sent) == 11 and len({s.via.branch for s in sent}) == 1  # 0.5 s, doubling to 4 s (timer E)
    line.run(32)
    assert line.state is RegistrationState.FAILED and line.registrar.counters.unanswered == 1
    assert len(line.run(47)) == 1


def test_the_registrar_says_when_and_for_how_long() -> None:
    line = Line()
    line.reply(line.run()[0], 423, b"Min-Expires: 600\r\n")
    (longer,) = line.run()
    assert find(longer.headers, b"expires") == b"600"
    line.reply(longer, 503, b"Retry-After: 100 (later)\r\n")
    assert line.run(99) == [] and len(line.run(100)) == 1


def test_a_registrar_that_asks_for_ever_more_is_refused() -> None:
    line = Line()
    line.reply(line.run()[0], 423, b"Min-Expires: 600\r\n")
    line.reply(line.run()[0], 423, b"Min-Expires: 600\r\n")
    assert line.state is RegistrationState.FAILED


def test_a_lost_connection_is_made_again_at_once() -> None:
    line = Line("tcp")
    (first,) = line.run()
    assert first.via.transport == b"TCP" and b"transport=tcp" in (find(first.headers, b"contact") or b"")
    line.reply(first, 200)
    assert line.registrar.uses(TCP)
    line.registrar.lose_flow(TCP, round(line.now_s * SECOND_NS))
    assert line.registrar.registered == 0 and len(line.run(line.now_s)) == 1


def test_what_is_registered_is_taken_back() -> None:
    line = Line()
    line.reply(line.run()[0], 200)
    line.registrar.leave(round(line.now_s * SECOND_NS))
    (last,) = line.run(line.now_s)
    assert find(last.headers, b"expires") == b"0" and b"expires=0" in (find(last.headers, b"contact") or b"")
    line.reply(last, 401, CHALLENGE % 1)
    (answered,) = line.run(line.now_s)
    line.reply(answered, 200)
    assert line.state is RegistrationState.IDLE and line.run(10_000) == [] and line.registrar.registered == 0


def test_what_is_not_registered_is_not_tried_any_more() -> None:
    line = Line()
    line.reply(line.run()[0], 403)
    line.registrar.leave(round(line.now_s * SECOND_NS))
    assert line.run(10_000) == [] and line.registrar.next_deadline() is None


def test_no_way_there() -> None:
    registrar = Line().registrar
    registrar.poll(0)
    (dial,) = registrar.take_dials()
    registrar.dialled(dial.call_id, None, 0)
    assert registrar.state_of("carrier") is RegistrationState.FAILED
    assert registrar.counters.unreachable == 1


@pytest.mark.parametrize("field", ["cseq", "branch", "twice"])
def test_answers_to_something_else_are_strays(field: str) -> None:
    line = Line()
    (sent,) = line.run()
    data = answer(sent, 200)
    if field == "cseq":
        data = data.replace(b"1 REGISTER", b"7 REGISTER")
    elif field == "branch":
        data = data.replace(sent.via.branch, b"z9hG4bKother")
    message = parse(data)
    assert isinstance(message, Response)
    line.registrar.receive(message, 0)
    if field == "twice":
        line.registrar.receive(message, 0)
    assert line.registrar.counters.strays == 1
