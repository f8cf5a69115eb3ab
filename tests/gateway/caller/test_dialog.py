"""The caller's signalling, event by event, on a clock that the test holds."""

from __future__ import annotations

import random

import pytest

from gateway.caller.dialog import Answered, Dialog, DialogState, Ended, LocalMedia, MediaChanged, Ringing
from gateway.caller.messages import Message, parse_message, parse_uri
from gateway.caller.sdp import describe, parse_audio

S = 1_000_000_000
PEER = ("127.0.0.1", 5060)
ANSWER = describe("127.0.0.1", 9000, "PCMU", 0)


class Peer:
    """Both ends of one dialog: reads what it sends, answers as told."""

    def __init__(self, *, transport: str = "udp") -> None:
        self.dialog = Dialog(
            parse_uri("sip:echo@127.0.0.1:5060"),
            ("127.0.0.1", 6000),
            LocalMedia("127.0.0.1", 4000, "PCMU", 0),
            rng=random.Random(1),
            transport=transport,
        )
        self.now_ns = 0

    def sent(self) -> list[Message]:
        messages = []
        for data, address in self.dialog.outgoing():
            message = parse_message(data)
            assert message is not None
            assert address[0] == "127.0.0.1"
            messages.append(message)
        return messages

    def invite(self) -> Message:
        self.dialog.invite(self.now_ns)
        (request,) = self.sent()
        return request

    def respond(self, request: Message, status: int, body: bytes = b"", *more: tuple[str, str]) -> None:
        copied = [h for h in request.headers if h[0] in ("via", "from", "call-id", "cseq")]
        to = request.header("to") + ("" if request.tag("to") or status == 100 else ";tag=them")
        headers = (*copied, ("to", to), *more)
        self.dialog.receive(Message(status=status, reason="R", headers=headers, body=body), PEER, self.now_ns)

    def request(self, method: str, cseq: int, branch: str = "", body: bytes = b"", tag: str = "") -> None:
        headers = (
            ("via", f"SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK{branch or method}{cseq}"),
            ("from", "<sip:echo@127.0.0.1:5060>;tag=them"),
            ("to", f"<sip:caller@127.0.0.1>;tag={tag or self.tag}"),
            ("call-id", self.dialog.call_id),
            ("cseq", f"{cseq} {method}"),
        )
        self.dialog.receive(Message(method, "sip:caller@x", headers=headers, body=body), PEER, self.now_ns)

    def answered(self) -> Message:
        """Invite and answer; returns the INVITE."""
        invite = self.invite()
        self.tag = invite.tag("from")
        self.respond(invite, 200, ANSWER, ("contact", "<sip:echo@127.0.0.1:5062>"))
        return invite

    def pass_time(self, until_ns: int) -> list[Message]:
        """Poll exactly at each deadline until a time; returns what was sent."""
        sent = []
        while (deadline := self.dialog.next_deadline()) is not None and deadline <= until_ns:
            self.now_ns = deadline
            self.dialog.poll(deadline)
            sent += self.sent()
        self.now_ns = until_ns
        return sent


def test_invite_offers_our_audio() -> None:
    invite = Peer().invite()
    assert invite.cseq == (1, "INVITE")
    assert invite.uri == "sip:echo@127.0.0.1:5060"
    assert invite.header("contact") == "<sip:caller@127.0.0.1:6000>"
    audio = parse_audio(invite.body)
    assert audio is not None
    assert (audio.port, audio.codecs[0]) == (4000, "PCMU")


def test_unanswered_invite_is_repeated_with_doubling_gaps_then_given_up() -> None:
    """Timers A and B: 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 s, and 408 at 32 s."""
    peer = Peer()
    first = peer.invite()
    times = []
    while peer.dialog.state is not DialogState.ENDED:
        deadline = peer.dialog.next_deadline()
        assert deadline is not None
        peer.dialog.poll(deadline)
        times += [deadline / S for message in peer.sent() if message == first]
    assert times == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    (ended,) = peer.dialog.events()
    assert ended == Ended(408, "Request Timeout", "timeout")
    assert peer.dialog.next_deadline() is None


def test_over_tcp_nothing_is_repeated() -> None:
    peer = Peer(transport="tcp")
    invite = peer.invite()
    assert "SIP/2.0/TCP" in invite.header("via")
    assert peer.pass_time(31 * S) == []
    peer.pass_time(33 * S)
    assert peer.dialog.state is DialogState.ENDED


def test_a_provisional_response_stops_the_repeats() -> None:
    peer = Peer()
    invite = peer.invite()
    peer.respond(invite, 100)
    peer.respond(invite, 180)
    assert peer.pass_time(60 * S) == []
    assert peer.dialog.events() == [Ringing(180)]


def test_answer_is_acknowledged_at_the_contact_and_again_for_each_repeat() -> None:
    peer = Peer()
    invite = peer.answered()
    (answered,) = peer.dialog.events()
    assert isinstance(answered, Answered)
    assert answered.audio is not None
    assert answered.audio.port == 9000
    ((data, address),) = peer.dialog.outgoing()
    ack = parse_message(data)
    assert ack is not None
    assert (ack.method, ack.cseq, ack.tag("to")) == ("ACK", (1, "ACK"), "them")
    assert (ack.uri, address) == ("sip:echo@127.0.0.1:5062", ("127.0.0.1", 5062))
    assert ack.branch != invite.branch
    peer.respond(invite, 200, ANSWER)
    assert peer.dialog.outgoing() == [(data, address)]
    assert peer.dialog.events() == []


def test_record_routes_are_followed_in_reverse() -> None:
    peer = Peer()
    invite = peer.invite()
    routes = ("record-route", "<sip:127.0.0.1:5081;lr>, <sip:127.0.0.1:5080;lr>")
    peer.respond(invite, 200, ANSWER, routes, ("contact", "<sip:echo@127.0.0.9:5062>"))
    ((data, address),) = peer.dialog.outgoing()
    ack = parse_message(data)
    assert ack is not None
    assert ack.values("route") == ["<sip:127.0.0.1:5080;lr>", "<sip:127.0.0.1:5081;lr>"]
    assert ack.uri == "sip:echo@127.0.0.9:5062"
    assert address == ("127.0.0.1", 5080)


@pytest.mark.parametrize("status", [302, 404, 486, 503, 603])
def test_refusal_is_acknowledged_in_its_transaction(status: int) -> None:
    peer = Peer()
    invite = peer.invite()
    extra = (("retry-after", "7 (later)"), ("contact", "<sip:other@127.0.0.1:5090>"))
    peer.respond(invite, status, b"", *extra)
    (ack,) = peer.sent()
    assert (ack.method, ack.branch, ack.uri, ack.cseq) == ("ACK", invite.branch, invite.uri, (1, "ACK"))
    assert ack.tag("to") == "them"
    (ended,) = peer.dialog.events()
    redirect = "<sip:other@127.0.0.1:5090>" if status == 302 else ""
    assert ended == Ended(status, "R", "refused", 7, redirect)
    peer.respond(invite, status, b"", *extra)
    assert [message.method for message in peer.sent()] == ["ACK"]
    assert peer.dialog.events() == []
    assert peer.dialog.next_deadline() is None


def test_hang_up_sends_bye_until_it_is_answered() -> None:
    peer = Peer()
    peer.answered()
    peer.sent()
    peer.dialog.events()
    peer.dialog.hang_up(peer.now_ns)
    (bye,) = peer.sent()
    assert (bye.method, bye.cseq, bye.uri) == ("BYE", (2, "BYE"), "sip:echo@127.0.0.1:5062")
    assert peer.pass_time(10 * S) == [bye] * 4  # 0.5, 1.5, 3.5 and 7.5 s
    peer.respond(bye, 200)
    assert peer.dialog.events() == [Ended(200, "OK", "us")]
    assert peer.dialog.next_deadline() is None


def test_a_bye_that_is_never_answered_ends_the_call_all_the_same() -> None:
    """Timer E doubles up to T2 of 4 s; timer F ends it at 32 s."""
    peer = Peer()
    peer.answered()
    peer.sent()
    peer.dialog.events()
    peer.dialog.hang_up(0)
    assert len(peer.pass_time(33 * S)) == 1 + 10
    (ended,) = peer.dialog.events()
    assert isinstance(ended, Ended)
    assert ended.by == "timeout"


def test_bye_of_the_peer_is_answered_once_per_copy() -> None:
    peer = Peer()
    peer.answered()
    peer.sent()
    peer.dialog.events()
    peer.request("BYE", 1)
    peer.request("BYE", 1)
    assert [message.status for message in peer.sent()] == [200, 200]
    assert peer.dialog.events() == [Ended(200, "OK", "peer")]


def test_hang_up_while_ringing_cancels() -> None:
    peer = Peer()
    invite = peer.invite()
    peer.respond(invite, 180)
    peer.dialog.hang_up(peer.now_ns)
    (cancel,) = peer.sent()
    assert (cancel.method, cancel.branch, cancel.cseq) == ("CANCEL", invite.branch, (1, "CANCEL"))
    assert cancel.tag("to") == ""
    peer.respond(cancel, 200)
    peer.respond(invite, 487)
    assert [message.method for message in peer.sent()] == ["ACK"]
    assert peer.dialog.events()[-1] == Ended(487, "R", "us")


def test_cancel_waits_for_the_first_provisional_response() -> None:
    peer = Peer()
    invite = peer.invite()
    peer.dialog.hang_up(peer.now_ns)
    assert peer.sent() == []
    peer.respond(invite, 100)
    assert [message.method for message in peer.sent()] == ["CANCEL"]


def test_answer_that_crosses_the_cancel_is_acknowledged_and_ended() -> None:
    peer = Peer()
    invite = peer.invite()
    peer.respond(invite, 180)
    peer.dialog.hang_up(peer.now_ns)
    peer.sent()
    peer.respond(invite, 200, ANSWER)
    ack, bye = peer.sent()
    assert (ack.method, bye.method) == ("ACK", "BYE")
    peer.respond(bye, 200)
    assert peer.dialog.events()[-1] == Ended(200, "OK", "us")


def test_a_cancelled_call_without_a_final_answer_ends_after_32_seconds() -> None:
    peer = Peer()
    invite = peer.invite()
    peer.respond(invite, 180)
    peer.dialog.hang_up(0)
    peer.pass_time(33 * S)
    assert peer.dialog.state is DialogState.ENDED


def test_hold_and_resume_by_reinvite() -> None:
    peer = Peer()
    peer.answered()
    peer.sent()
    peer.dialog.events()
    peer.request("INVITE", 1, body=describe("127.0.0.1", 9100, "PCMU", 0, direction="sendonly"))
    (answer,) = peer.sent()
    audio = parse_audio(answer.body)
    assert audio is not None
    assert (answer.status, audio.direction) == (200, "recvonly")
    (changed,) = peer.dialog.events()
    assert isinstance(changed, MediaChanged)
    assert (changed.audio.port, changed.audio.wants_audio) == (9100, False)
    assert len(peer.pass_time(2 * S)) == 2  # our 200 again at 0.5 and 1.5 s
    peer.request("ACK", 1)
    assert peer.dialog.next_deadline() is None
    peer.request("INVITE", 2, body=describe("127.0.0.1", 9100, "PCMU", 0))
    assert [message.status for message in peer.sent()] == [200]


def test_a_repeated_reinvite_gets_the_same_answer_and_no_second_event() -> None:
    peer = Peer()
    peer.answered()
    peer.sent()
    peer.dialog.events()
    for _ in range(2):
        peer.request("INVITE", 1, body=describe("127.0.0.1", 9100, "PCMU", 0))
    first, second = peer.sent()
    assert first == second
    assert len(peer.dialog.events()) == 1


def test_an_answer_to_a_reinvite_that_is_never_acknowledged_ends_the_call() -> None:
    peer = Peer()
    peer.answered()
    peer.sent()
    peer.request("INVITE", 1, body=describe("127.0.0.1", 9100, "PCMU", 0))
    assert "BYE" in {message.method for message in peer.pass_time(33 * S)}


def test_other_requests_in_the_dialog() -> None:
    peer = Peer()
    peer.answered()
    peer.sent()
    peer.dialog.events()
    peer.request("OPTIONS", 5)
    peer.request("INFO", 6)
    peer.request("REFER", 7)
    peer.request("INVITE", 8, body=describe("127.0.0.1", 9100, "OPUS", 96))
    peer.request("OPTIONS", 2)  # out of order, RFC 3261 section 12.2.2
    peer.request("OPTIONS", 9, tag="stranger")
    assert [message.status for message in peer.sent()] == [200, 200, 405, 488, 500, 481]
    assert peer.dialog.state is DialogState.CONFIRMED
    assert peer.dialog.refused_requests == 3


def test_a_request_before_the_dialog_is_up_gets_481() -> None:
    peer = Peer()
    peer.tag = peer.invite().tag("from")
    peer.request("BYE", 1)
    assert [message.status for message in peer.sent()] == [481]


def test_answer_without_audio_is_said() -> None:
    peer = Peer()
    peer.respond(peer.invite(), 200)
    assert peer.dialog.events() == [Answered(None)]
