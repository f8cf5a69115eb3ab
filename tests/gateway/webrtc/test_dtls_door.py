"""What of a datagram reaches DTLS, and how many sources a browser may have."""

from __future__ import annotations

import random

from gateway.webrtc.dtls_door import MAX_DATA_BYTES, MAX_RECORDS, MAX_SOURCES, Sources, records


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 254, 253]) + bytes(8) + len(body).to_bytes(2, "big") + body


def test_records_come_out_one_by_one_and_none_is_made_up() -> None:
    flight = [record(22, b"hello"), record(20, b"\x01"), record(22, bytes(900))]
    assert records(b"".join(flight)) == flight
    assert records(flight[0] + flight[2][:-1]) == flight[:1]
    assert records(b"") == records(bytes(12)) == []


def test_more_records_than_a_flight_and_longer_data_than_is_read_at_once_are_left_out() -> None:
    assert len(records(record(23, b"x") * 60)) == MAX_RECORDS
    assert records(record(23, bytes(MAX_DATA_BYTES + 1)) + record(23, b"x")) == [record(23, b"x")]
    assert records(record(22, bytes(MAX_DATA_BYTES + 1))) == [record(22, bytes(MAX_DATA_BYTES + 1))]


def test_any_bytes_are_read() -> None:
    chance = random.Random(3)
    for _ in range(2000):
        data = chance.randbytes(chance.randrange(200))
        assert sum(map(len, records(data))) <= len(data)


def test_sources_are_few_and_only_the_authentic_count() -> None:
    sources = Sources()
    names = [bytes([0, 0, 0, number]) for number in range(MAX_SOURCES + 9)]
    assert all(sources.admits(name) for name in names)
    for name in names[:MAX_SOURCES]:
        sources.note(name)
    assert all(sources.admits(name) for name in names[:MAX_SOURCES])
    assert not any(sources.admits(name) for name in names[MAX_SOURCES:])
