"""Single words with a model server on its control socket, for who is none of its workers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gateway import control
from media.leases import MAX_BYTES, BadMessage, Leave, Message, Stats, StatsRequest, decode, encode


async def ask_model(path: Path, timeout_s: float = 1.0) -> dict[str, Any] | None:
    """The model server's `Stats`; None when it does not answer."""
    try:
        message = await _say(path, StatsRequest(), timeout_s)
    except (OSError, TimeoutError, BadMessage):
        return None
    return message.fields if isinstance(message, Stats) else None


async def tell_to_leave(path: Path, to: Path | None, timeout_s: float = 5.0) -> None:
    """The calls of the server at `path` are to move to another one, or to stay.

    `OSError`, `TimeoutError` or `BadMessage` when it does not say that it has heard.
    """
    await _say(path, Leave(str(to) if to is not None else ""), timeout_s)


async def _say(path: Path, message: Message, timeout_s: float) -> Message:
    loop = asyncio.get_running_loop()
    with control.connect(path) as connection:
        await loop.sock_sendall(connection, encode(message))
        async with asyncio.timeout(timeout_s):
            return decode(await loop.sock_recv(connection, MAX_BYTES))
