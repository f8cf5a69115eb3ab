"""Events to try the spool and what is behind it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.events.outbox import Outbox
from gateway.events.records import Event, Kind, encode, id_of
from gateway.events.settings import Webhook
from gateway.events.spool import Spool

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""That of the examples in the Standard Webhooks specification."""


def webhook(url: str = "http://127.0.0.1:1/", **settings: Any) -> Webhook:
    return Webhook(url=url, secret=SECRET, **settings)  # type: ignore[arg-type]


def event(number: int, kind: Kind = "call.started", at_ms: int = 0, tenant: str = "") -> Event:
    call = f"b-{number:016x}"
    return Event(id_of(kind, call, at_ms), kind, at_ms, "n1", call, {"number": number}, tenant)


def put(spool: Spool, *events: Event) -> None:
    for one in events:
        assert spool.append(encode(one))


def spool_at(folder: Path, most_bytes: int = 1 << 20, *readers: str) -> Spool:
    return Spool(folder, most_bytes, readers or ("crm",))


def outbox(spool: Spool, name: str = "crm", give_up_s: int = 259_200, **settings: Any) -> Outbox:
    return Outbox(name, webhook(**settings), spool, give_up_s)


def rest(spool: Spool, reader: str = "crm") -> list[bytes]:
    """All that a reader has not got; it gets them."""
    found = []
    while (record := spool.read(reader)) is not None:
        found.append(record.payload)
        spool.advance(reader, record.after)
    return found
