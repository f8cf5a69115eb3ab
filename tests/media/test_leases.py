"""The words on the control socket."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.leases import (
    MAX_BYTES,
    Attached,
    BadMessage,
    CaughtUp,
    Hello,
    Lease,
    Leased,
    Leave,
    Refused,
    Release,
    Stats,
    StatsRequest,
    decode,
    encode,
)

MESSAGES = [
    Hello("sip-0", 4711),
    Attached(2**55, "echo"),
    Lease("a@b", 3, 17, "ünï"),
    Leased("a@b", 5, 4, 2, 5_000_000),
    Refused("a@b", "no free slot", 1),
    Lease("a@b", 3, 17, moves=True, group=2, budget_ns=5_000_000),
    CaughtUp("a@b", 5, 4, 17),
    Leave("/run/user/0/microturn/model.sock.next"),
    Leave(),
    Release("a@b", 5, 4),
    StatsRequest(),
    Stats({"counters": {"turns_total": 5}}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_was(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("packet", "told"),
    [
        (b"", "no control message"),
        (b"\xff\xfe", "no control message"),
        (b"[]", "no control message"),
        (b"7", "no control message"),
        (b"[" * 4000, "no control message"),
        (b'{"is":"Nothing"}', "no control message"),
        (b'{"is":["Lease"]}', "no control message"),
        (b'{"call":"x"}', "no control message"),
        (b'{"is":"Lease"}', "call"),
        (b'{"is":"Lease","call":"x","more":1}', "more"),
        (b'{"is":"Lease","call":5}', "call = 5 of Lease is not of type str"),
        (b'{"is":"Lease","call":"x","floor":true}', "floor = True"),
        (b'{"is":"Lease","call":"x","floor":1.5}', "floor = 1.5"),
        (b'{"is":"Stats","fields":[1]}', "fields"),
        (b" " * (MAX_BYTES + 1), f"at most {MAX_BYTES}"),
    ],
)
def test_what_is_no_message_says_why(packet, told):
    with pytest.raises(BadMessage, match=told):
        decode(packet)


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s)))
def test_garbage_only_ever_raises_bad_message(garbage):
    packet = garbage if isinstance(garbage, bytes) else json.dumps({"is": "Lease", "call": garbage}).encode()
    with contextlib.suppress(BadMessage):
        assert isinstance(decode(packet), Lease)
