"""The hostile sender: what it makes, how it ends calls, and what it says of a target that dies."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtests.hostile.agent import BYE_TRIES, Agent, parse, split_stream
from loadtests.hostile.command import main
from loadtests.hostile.known import crash_messages, flood_messages, torture_messages
from loadtests.hostile.message import MAX_DATAGRAM, Address, Hop, request
from loadtests.hostile.mutations import mutated_sip
from loadtests.hostile.rtp import RtpStream, mutated_rtcp, mutated_rtp

HOP = Hop(Address("127.0.0.1", 5999), Address("127.0.0.1", 5060))


def answer(data: bytes, code: int, extra: str = "") -> bytes:
    """The target's response to a request of ours."""
    message = parse(data)
    lines = [f"SIP/2.0 {code} X"]
    for name in ("via", "from", "to", "call-id", "cseq"):
        value = message.first(name)
        lines.append(f"{name}: {value}" + (";tag=theirs" if name == "to" and "tag=" not in value else ""))
    return ("\r\n".join(lines) + f"\r\n{extra}Content-Length: 0\r\n\r\n").encode("latin-1", "replace")


def test_the_same_seed_makes_the_same_messages() -> None:
    first, second = (
        [mutated_sip(rng, HOP).data for _ in range(500)] for rng in (random.Random(7), random.Random(7))
    )
    assert first == second
    assert len(set(first)) > 490
    assert max(map(len, first)) <= MAX_DATAGRAM


def test_the_answer_to_a_mutated_invite_can_come_back() -> None:
    rng = random.Random(3)
    invites = [m.data for m in (mutated_sip(rng, HOP) for _ in range(500)) if m.name == "INVITE"]
    assert len(invites) > 100
    for data in invites:
        assert data.startswith(
            b"INVITE sip:gw@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5999;rport;"
        )


def test_crash_messages_are_those_that_are_known() -> None:
    messages = {m.name: m.data for m in crash_messages(random.Random(1), HOP, HOP)}
    assert b"\r\nc=IN IP4 " + b"A" * 254 + b"\r\n" in messages["c= of 254"]
    assert b"a=rtcp:40001 IN IP4 " + b"A" * 254 + b"\r\n" in messages["a=rtcp of 254"]
    assert b"m=audio 0 " in messages["m=audio 0, no c="]
    assert b"c=IN" not in messages["m=audio 0, no c="]
    assert b"a=fmtp:97 mode=40" in messages["iLBC mode=40"]
    assert len(flood_messages(random.Random(1), HOP)) == 33


def test_rtp_and_rtcp_of_one_seed_are_the_same() -> None:
    def packets() -> list[bytes]:
        rng = random.Random(5)
        stream = RtpStream.start(rng)
        seeds = (b"\x80\x00" + bytes(20), b"")
        made = [mutated_rtp(rng, stream, seeds) for _ in range(300)]
        return made + [mutated_rtcp(rng, stream, seeds) for _ in range(300)]

    assert packets() == packets()


@pytest.mark.parametrize(
    "text", ["192.0.2.1:5060", "example.org:5060", "127.0.0.1", "127.0.0.1:0", "0.0.0.0:5060"]
)
def test_only_this_machine_is_attacked(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", text]) == 2
    assert text in capsys.readouterr().err


def test_a_torture_folder_without_messages_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RFC 4475"):
        torture_messages(tmp_path)


def agent() -> Agent:
    return Agent(HOP, random.Random(1), Counter())


def test_a_call_that_comes_about_is_acknowledged_and_ended_once() -> None:
    us = agent()
    invite = request(random.Random(1), HOP, "INVITE")
    extra = "Contact: <sip:gw@127.0.0.1:6000>\r\nRecord-Route: <sip:a;lr>\r\nRecord-Route: <sip:b;lr>\r\n"
    ok = answer(invite, 200, extra)
    ack, bye = us.receive(ok, 0.0)
    for data, method in ((ack, b"ACK"), (bye, b"BYE")):
        assert data.startswith(method + b" sip:gw@127.0.0.1:6000 SIP/2.0\r\n")
        assert data.index(b"Route: <sip:b;lr>") < data.index(b"Route: <sip:a;lr>")
    assert [reply.split()[0] for reply in us.receive(ok, 0.1)] == [b"ACK"]  # 200 repeated: section 13.2.2.4
    assert us.poll(0.2) == []
    assert us.poll(0.6) == [bye]
    us.receive(answer(bye, 200), 0.7)
    assert us.waiting == 0
    assert us.codes == {"200": 3}


def test_a_broken_display_name_is_left_out_of_the_hang_up() -> None:
    invite = request(random.Random(1), HOP, "INVITE").replace(b'"Hostile" <', b'";;"Hostile"" <')
    ack, bye = agent().receive(answer(invite, 200), 0.0)
    for data in (ack, bye):
        assert parse(data).first("from").startswith("<sip:hostile@127.0.0.1:5999>;tag=")


def test_a_bye_without_an_answer_is_given_up_and_counted() -> None:
    us = agent()
    us.receive(answer(request(random.Random(1), HOP, "INVITE"), 200), 0.0)
    assert sum(len(us.poll(float(second))) for second in range(1, 20)) == BYE_TRIES
    assert (us.waiting, us.given_up) == (0, 1)


@pytest.mark.parametrize("code", [401, 407, 486, 487, 503])
def test_a_refusal_is_acknowledged_in_its_transaction(code: int) -> None:
    invite = request(random.Random(1), HOP, "INVITE")
    (ack,) = agent().receive(answer(invite, code), 0.0)
    assert parse(ack).first("via") == parse(invite).first("via")
    assert parse(ack).first("to").endswith(";tag=theirs")


def test_an_invite_that_only_rings_is_cancelled() -> None:
    us = agent()
    invite = request(random.Random(1), HOP, "INVITE")
    assert us.receive(answer(invite, 180), 0.0) == []
    assert us.poll(0.5) == []
    (cancel,) = us.poll(1.1)
    assert cancel.startswith(b"CANCEL sip:gw@127.0.0.1:5060 ")
    assert parse(cancel).first("via") == parse(invite).first("via")
    assert "tag=" not in parse(cancel).first("to")
    us.receive(answer(invite, 487), 1.2)
    assert us.waiting == 0


def test_the_target_s_own_requests_are_answered() -> None:
    (reply,) = agent().receive(request(random.Random(1), HOP, "BYE"), 0.0)
    assert reply.startswith(b"SIP/2.0 200 OK\r\n")
    assert agent().receive(request(random.Random(1), HOP, "ACK"), 0.0) == []


def test_messages_are_cut_out_of_a_stream() -> None:
    first = b"SIP/2.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    second = b"SIP/2.0 100 Trying\r\nl: 0\r\n\r\n"
    buffer = bytearray()
    found: list[bytes] = []
    for byte in b"\r\n\r\n" + first + second + first[:-1]:
        buffer.append(byte)
        found += split_stream(buffer)
    assert found == [first, second]


@contextmanager
def target(dies_after: int = 1_000_000) -> Iterator[int]:
    """A UDP server that takes every call, and falls silent after a number of datagrams; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]

        def serve() -> None:
            count = 0
            while True:
                data, peer = sock.recvfrom(65536)
                if data == b"stop":
                    return
                count += 1
                if count <= dies_after and b"SIP/2.0\r\n" in data[:2000] and not data.startswith(b"ACK"):
                    sock.sendto(answer(data, 200, f"Contact: <sip:gw@127.0.0.1:{port}>\r\n"), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            sock.sendto(b"stop", ("127.0.0.1", port))
            thread.join()


def test_a_run_against_a_target_that_holds_out(capsys: pytest.CaptureFixture[str]) -> None:
    with target() as port:
        command = f"--target 127.0.0.1:{port} --sip 300 --rtp 200 --rtp-targets 127.0.0.1:{port} --rate 2000"
        assert main(command.split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["alive"] is True
    assert (result["crash"], result["sip"], result["rtp"], result["torture"]) == (43, 300, 200, 0)
    assert result["hung_up"] > 33
    assert result["left_open"] == 0
    assert result["tcp"] is False


def test_a_target_that_falls_silent_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with target(dies_after=100) as port:
        command = f"--target 127.0.0.1:{port} --sip 300 --rtp 0 --rate 2000 --replay {tmp_path}"
        assert main(command.split()) == 1
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["alive"] is False
    assert json.loads(lines[-1])["longest_silence_ms"] >= 2000
    assert "silent in stage" in lines[-2]
    assert any(tmp_path.glob("*.bin"))


def test_a_target_that_never_was_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with target(dies_after=0) as port:
        assert main(["--target", f"127.0.0.1:{port}"]) == 2
    assert "is the gateway up" in capsys.readouterr().err
