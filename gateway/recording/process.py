"""`microturn recordings keep`: the keeper's process, started by the gateway's main process and gone with it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Final

import aiohttp

from gateway.config import GatewaySettings
from gateway.priority import stay_back
from gateway.recording.keeper import Keeper, alone
from gateway.recording.s3 import Bucket
from gateway.recording.sigv4 import Signer

NICE: Final = 15


def run(settings: GatewaySettings) -> int:
    """Until SIGTERM or SIGINT. `ValueError` in words for the operator."""
    if not settings.recording_dir:
        raise ValueError("recording_dir is not set: nothing is recorded")
    stay_back(NICE)
    with alone(Path(settings.recording_dir)):
        asyncio.run(_keep(settings))
    return 0


async def _keep(settings: GatewaySettings) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with aiohttp.ClientSession() as session:
        bucket = None
        if settings.recording_s3_url:
            secret = settings.recording_s3_secret.get_secret_value()
            signer = Signer(settings.recording_s3_user, secret, settings.recording_s3_region)
            bucket = Bucket(settings.recording_s3_url, signer, session)
        keeper = Keeper(
            Path(settings.recording_dir), settings.recording_format, settings.keyring,
            settings.recording_keep_days, bucket,
        )  # fmt: skip
        working = loop.create_task(keeper.run())
        stopped = loop.create_task(stop.wait())
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
