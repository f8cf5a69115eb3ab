# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is not heard, on real sockets: by UDP and by TCP, beside a call that lives."""

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.sip.edge import Edge
from gateway.sip.guard import GuardRules
from tests.gateway.sip.test_edge import PATIENCE_S, Udp, read_message, request, with_edge

NOBODY = GuardRules(allow=("192.0.2.0/24",))


def scanning(method: str, call_id: str, transport: str = "UDP") -> bytes:
    return request(method, call_id, transport).replace(
        b"Max-Forwards", b"User-Agent: friendly-scanner\r\nMax-Forwards"
    )


async def heard(edge: Edge, caller: Udp, call_id: str) -> bool:
    """Whether an OPTIONS is answered."""
    caller.transport.sendto(request("OPTIONS", call_id), edge.address)
    try:
        await asyncio.wait_for(caller.got.get(), 0.3)
    except TimeoutError:
        return False
    return True


def test_a_scanner_gets_no_answer_and_one_line_of_log() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        caller = await Udp.open()
        for n in range(200):
            caller.transport.sendto(scanning("REGISTER" if n % 2 else "INVITE", f"s{n}"), edge.address)
        assert await heard(edge, caller, "o")  # sent after them, and the first to be answered
        assert caller.got.empty() and worker.got.empty()
        assert (edge.guard_counters.scanners, edge.counters.messages) == (200, 1)
        caller.transport.close()

    with capture_logs() as logged:
        with_edge(story)
    told = [(line["event"], line["source"], line["why"], line["messages"]) for line in logged]
    assert told == [("not heard", "127.0.0.1", "scanner", 1)]


def test_a_stranger_hears_nothing_by_udp_and_finds_no_door_by_tcp() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        caller = await Udp.open()
        assert not await heard(edge, caller, "o")
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(request("OPTIONS", "t", "TCP"))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)
        assert edge.guard_counters.strangers == 2 and edge.counters.tcp_connections == 0
        caller.transport.close()
        writer.close()

    with_edge(story, rules=NOBODY)


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_call_that_lives_is_heard_whoever_we_allow_by_now(transport: str) -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        assert edge.adopt_call("w", "old")  # from before a restart with other settings
        bye = request("BYE", "old", transport, 7, ";tag=w")
        if transport == "UDP":
            caller = await Udp.open()
            caller.transport.sendto(bye, edge.address)
            assert (await caller.next()).startswith(b"SIP/2.0 200")
            caller.transport.close()
        else:
            reader, writer = await asyncio.open_connection(*edge.address)
            writer.write(bye)
            assert (await read_message(reader)).startswith(b"SIP/2.0 200")
            writer.close()
        assert edge.loads == {"w": 0} and edge.guard_counters.strangers == 0

    with_edge(story, rules=NOBODY)


def test_beyond_the_rate_503_then_nothing_and_the_call_goes_on() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        caller = await Udp.open()
        caller.transport.sendto(request("INVITE", "mine"), edge.address)
        assert (await caller.next()).startswith(b"SIP/2.0 200")
        for n in range(40):
            caller.transport.sendto(request("INVITE", f"f{n}"), edge.address)
        caller.transport.sendto(request("BYE", "mine", cseq=2, tag=";tag=w"), edge.address)
        answers = [await caller.next()]
        while b"Call-ID: mine" not in answers[-1]:
            answers.append(await caller.next())
        ended = answers.pop()
        refused = [told for told in answers if b" 503 " in told]
        assert ended.startswith(b"SIP/2.0 200") and len(answers) - len(refused) == 3
        assert {told.splitlines()[0] for told in refused} == {b"SIP/2.0 503 Too Many Requests"}
        assert all(b"Retry-After: " in told for told in refused)
        counted = edge.guard_counters
        assert counted.refused == len(refused) in (3, 4)  # what a moment brings is a fraction of one more
        assert counted.refused + counted.limited + counted.silenced == 37 and counted.silences == 1
        assert not await heard(edge, caller, "o")
        caller.transport.close()

    with_edge(story, rules=GuardRules(per_s=1, silence_s=600))


def test_a_connection_of_a_scanner_is_closed_unless_a_call_needs_it() -> None:
    async def story(edge: Edge, worker: Udp) -> None:
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(scanning("REGISTER", "s", "TCP"))
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(request("INVITE", "t", "TCP"))
        assert (await read_message(reader)).startswith(b"SIP/2.0 200")
        writer.write(scanning("REGISTER", "s", "TCP") + request("BYE", "t", "TCP", 2, ";tag=w"))
        ended = await read_message(reader)
        assert ended.startswith(b"SIP/2.0 200") and b"Call-ID: t\r" in ended
        assert edge.guard_counters.scanners == 2
        writer.close()

    with_edge(story)
