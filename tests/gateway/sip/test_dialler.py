# SPDX-License-Identifier: GPL-3.0-or-later
"""Flows to targets: numeric hosts, names of this machine, and what does not answer."""

import asyncio
import socket

import pytest

from gateway.sip import dialler
from gateway.sip.dialler import Dial, Dialler
from gateway.sip.flows import Flow
from gateway.sip.targets import Target


async def reach(*targets: Target, gone: bool = False) -> list[tuple[bytes, Flow | None]]:
    told: asyncio.Queue[tuple[bytes, Flow | None]] = asyncio.Queue()

    async def connect(host: str, port: int, name: str) -> Flow:
        if gone:
            raise ConnectionRefusedError
        return Flow("tcp", host, port, 3)

    used = Dialler("127.0.0.1", connect, lambda call_id, flow: told.put_nowait((call_id, flow)))
    for number, target in enumerate(targets):
        used.dial(Dial(b"%d" % number, target))
    try:
        return [await asyncio.wait_for(told.get(), 10) for _ in targets]
    finally:
        used.close()


def test_names_become_addresses() -> None:
    udp, tcp = (Target(b"sip:x", "localhost", 5070, kind) for kind in ("udp", "tcp"))
    found = dict(asyncio.run(reach(udp, tcp)))
    assert found == {b"0": Flow("udp", "127.0.0.1", 5070), b"1": Flow("tcp", "127.0.0.1", 5070, 3)}


def test_numeric_hosts_are_taken_as_they_are_and_a_refused_connection_is_none() -> None:
    tcp = Target(b"sip:x", "192.0.2.1", 5070, "tcp")
    assert asyncio.run(reach(tcp)) == [(b"0", Flow("tcp", "192.0.2.1", 5070, 3))]
    assert asyncio.run(reach(tcp, gone=True)) == [(b"0", None)]


def test_name_that_does_not_resolve_is_none() -> None:
    nowhere = Target(b"sip:x", "nowhere.invalid", 5060, "udp")
    assert asyncio.run(reach(nowhere)) == [(b"0", None)]


def test_too_many_at_once_are_refused_at_once() -> None:
    targets = [Target(b"sip:x", "localhost", 5060, "udp")] * (dialler.MAX_DIALS + 2)
    flows = [flow for _, flow in asyncio.run(reach(*targets))]
    assert flows.count(None) == 2 and flows.count(Flow("udp", "127.0.0.1", 5060)) == dialler.MAX_DIALS


def test_target_that_does_not_answer_in_time_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> Flow | None:
        told: asyncio.Queue[Flow | None] = asyncio.Queue()

        async def hang(host: str, port: int, name: str) -> Flow:
            await asyncio.Event().wait()
            raise AssertionError("never")

        used = Dialler("127.0.0.1", hang, lambda call_id, flow: told.put_nowait(flow))
        used.dial(Dial(b"x", Target(b"sip:x", "192.0.2.1", 5060, "tcp")))
        try:
            return await asyncio.wait_for(told.get(), 5)
        finally:
            used.close()

    monkeypatch.setattr(dialler, "DIAL_S", 0.05)
    assert asyncio.run(story()) is None


def test_family_is_that_of_our_socket() -> None:
    async def story() -> int:
        used = Dialler("::1", lambda host, port: asyncio.sleep(0, Flow("tcp", host, port)), lambda *_: None)
        used.close()
        return int(used._family)

    assert asyncio.run(story()) == socket.AF_INET6
