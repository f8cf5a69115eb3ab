"""`microturn forget`: what is kept of one caller goes, of all calls and gateways.

Calls are found by the caller's pseudonym in their session records, so it needs the same `caller_secret` as the
gateways; or by the name of one call. Of a call that is over everything goes but its CDRs, which do not say who it
was; one that lives is marked, and leaves nothing when it ends (`lease.SCRIPT`). Gateways are told, for the events
that wait on their disks (`gateway/state/forgotten.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.cluster.parties import given_identity, pseudonym
from gateway.config import GatewaySettings
from gateway.recording.keeper import delete_of
from gateway.state import forgotten as asked
from gateway.state import keys, records
from gateway.state.client import Client
from gateway.state.embedded import socket_of
from gateway.state.faults import Away, Rejected
from gateway.state.lease import FORGET
from gateway.state.sessions import make_client


@dataclass(frozen=True, slots=True)
class Done:
    """How many calls there were."""

    forgotten: int = 0
    live: int = 0
    recordings: int = 0
    """Files, in `recording_dir` of this machine."""


def forget_caller(settings: GatewaySettings, caller: str) -> Done:
    """`ValueError` and `OSError` in words for the operator."""
    address = settings.state_address
    if address is None and socket_of(settings.run_dir).exists():  # of a `microturn up` that runs
        settings = settings.model_copy(update={"redis": f"unix://{socket_of(settings.run_dir)}"})
        address = settings.state_address
    if address is None:
        raise ValueError(f"redis = {settings.redis!r}: name the server that the gateways use (--redis)")
    if not caller.strip():
        raise ValueError(
            "whom shall be forgotten? A number, a SIP address, the name in a token, or a call's name"
        )

    async def forget() -> Done:
        client = make_client(settings, address)
        try:
            return await _forget(client, settings, caller.strip())
        except (Away, Rejected) as wrong:
            raise OSError(f"{address} does not do as it is asked: {wrong}") from None
        finally:
            await client.close()

    return asyncio.run(forget())


async def _forget(client: Client, settings: GatewaySettings, caller: str) -> Done:
    wanted = ""
    if keys.is_name(caller):
        calls = {caller}
    else:
        wanted = pseudonym(given_identity(caller), settings.caller_secret.get_secret_value())
        calls = {call async for call, record in client.sessions() if _caller_of(record) == wanted}
    forgotten = live = 0
    for call in calls:
        lives, parts = await client.script(FORGET, keys.keys(settings.redis_namespace, call), [keys.LIVE_S])
        live += bool(lives)
        forgotten += bool(parts and not lives)
    await client.forget_tasks(calls)
    told = asked.note(calls, wanted, settings.events_give_up_s)
    await client.script(asked.NOTE, [asked.key(settings.redis_namespace)], told)
    folder = settings.recording_dir
    deleted = await asyncio.to_thread(delete_of, Path(folder), calls) if folder else 0
    return Done(forgotten, live, deleted)


def _caller_of(record: bytes) -> str | None:
    try:
        return records.decode(records.Session, record).caller or None
    except msgspec.DecodeError:
        return None
