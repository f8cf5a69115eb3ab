# SPDX-License-Identifier: GPL-3.0-or-later
"""What never reaches a worker, and what never raises.  No socket, no clock."""

import random
from pathlib import Path

import pytest

from gateway.sip.message import Request
from gateway.sip.timers import SECOND_NS
from tests.support.sip_router import (
    ALICE,
    BOB_TCP,
    MALLORY,
    MS,
    SDP,
    answer,
    edge,
    establish,
    give,
    one,
    request,
    start,
    status,
    worker_flow,
    worker_request,
)

# ---- The screen ----


def test_address_that_pjsip_takes_once_only_never_reaches_a_worker() -> None:
    router = edge()
    for field in (b"From: <sip:alice@x>", b"To: <sip:bot@x>"):
        name, _, uri = field.partition(b" ")
        hostile = request().replace(field, name + b' ";;"Hostile"" ' + uri)
        (refusal,) = give(router, hostile)
        assert refusal.flow == ALICE and refusal.data.startswith(b"SIP/2.0 400 ")
    assert status(give(router, request(extra=b'Contact: "a"b" <sip:alice@192.0.2.1>\r\n'))) == 400
    assert sum(router.workers.loads().values()) == 0


def test_hostile_bodies_never_reach_a_worker() -> None:
    router = edge()
    no_address = SDP.replace(b"c=IN IP4 192.0.2.1\r\n", b"")
    assert status(give(router, request(body=no_address))) == 488
    assert status(give(router, request(body=b"--x", kind="multipart/mixed;boundary=x"))) == 415
    assert status(give(router, request(body=b"<x/>", kind="text/xml"))) == 415
    assert status(give(router, request(extra=b"Content-Encoding: gzip\r\n"))) == 415
    assert (
        status(give(router, request(extra=b"X: " + b"y" * 1900 + b"\r\nZ: " + b"y" * 1900 + b"\r\n"))) == 513
    )
    assert sum(router.workers.loads().values()) == 0
    worker, _ = establish(router)
    assert status(give(router, request(cseq=2, to_tag="w", body=no_address))) == 488
    assert give(router, request("ACK", cseq=2, to_tag="w", body=no_address)) == []
    _, reinvite = one(give(router, worker_request("INVITE", "c1", worker, []), worker))
    assert isinstance(reinvite, Request)
    assert give(router, answer(reinvite, 200, body=no_address), ALICE) == []
    assert one(give(router, answer(reinvite, 200, body=SDP), ALICE))[0] == worker


# ---- Unlucky input ----


RFC4475 = Path(__file__).resolve().parents[4] / "shared" / "data" / "sip" / "rfc4475"
SENSIBLE = {
    "badvers": 505, "bext01": 420, "clerr": 400, "insuf": 400, "invut": 415, "lwsruri": 400, "ltgtruri": 400,
    "mcl01": 400, "mismatch01": 400, "mismatch02": 400, "multi01": 400, "ncl": 400, "novelsc": 416,
    "quotbal": 400, "regaut01": 405, "scalar02": 400, "unkscm": 416, "zeromf": 483, "escruri": 400,
    "trws": 400, "lwsstart": 400, "regbadct": 400, "badbranch": 200,
    "semiuri": 200, "lwsdisp": 200, "transports": 200, "dblreq": 405, "mpart01": 405,
    "wsinv": 481, "esc02": 501,
}  # fmt: skip


@pytest.mark.skipif(not RFC4475.is_dir(), reason=f"the RFC 4475 messages are not at {RFC4475}")
@pytest.mark.parametrize("path", sorted(RFC4475.glob("*/*.dat")), ids=lambda path: path.stem)
def test_rfc4475_through_parser_and_router(path: Path) -> None:
    for source in (ALICE, BOB_TCP, worker_flow(0)):
        router = edge()
        sends = give(router, path.read_bytes(), source)
        assert len(sends) <= 1
        if source == ALICE and path.stem in SENSIBLE:  # the echoed headers may be as broken as they came
            assert [send.data[:12] for send in sends] == [b"SIP/2.0 %d " % SENSIBLE[path.stem]]
        if path.parent.name == "invalid" and source != worker_flow(0):
            admitted = router.counters.calls_admitted
            assert admitted == 0 or path.stem in ("baddate", "inv2543", "sdp01")  # the UAS may take these
        if path.stem == "esc01":
            assert router.counters.calls_admitted == (source != worker_flow(0))


def test_mutated_messages_never_raise_and_never_lose_count() -> None:
    rng = random.Random(3261)
    router = edge(capacity=50)
    worker, forwarded = start(router, "c1")
    seeds = [
        request(), request("BYE", cseq=2, to_tag="w"), request("CANCEL"), request("ACK", to_tag="w"),
        request("INFO", cseq=3, to_tag="w", body=b"5", kind="application/dtmf"), request("OPTIONS", "o"),
        answer(forwarded, 200, body=SDP), answer(forwarded, 486),
        request(call_id="c2", extra=b"Route: <sip:198.51.100.1;lr>, <sip:a@b>\r\nRecord-Route: <sip:q>\r\n"),
        worker_request("BYE", "c1", worker, [b"<sip:127.0.0.1:5999;lr>"]),
    ]  # fmt: skip
    for number in range(5_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data))
            choice = rng.randrange(3)
            if choice == 0:
                data[at] = rng.randrange(256)
            elif choice == 1:
                del data[at : at + rng.randrange(12)]
            else:
                data[at:at] = rng.choice([b"\r\n", b";", b",", b'"', b"<", b">", b":", b" ", b"0", b"\r\n "])
        give(router, bytes(data), rng.choice([ALICE, BOB_TCP, MALLORY, worker, worker_flow(2)]), number * MS)
        router.poll(number * MS)
    router.poll(10_000 * SECOND_NS)
    assert all(load >= 0 for load in router.workers.loads().values())
