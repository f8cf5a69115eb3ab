"""Browser calls that each play one sound: the browser's half of `loadtests.dialogues`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import numpy as np
import soxr

from gateway.priority import keeping_time
from loadtests.aiortc_taps import allow_loopback
from loadtests.webrtc_call import CallLog, CallPlan, WebrtcCall
from loadtests.webrtc_media import OPUS_HZ, Clip, Samples, Voice, encode_opus, make_clip_of
from loadtests.webrtc_streams import Pacer
from media.timebase import FRAME_MS, TURN_MS

SET_UP_S = 2.0
"""After its offer a call has media by then; its voice has so much silence more, before it would begin anew."""

HOLD_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What one caller says and shows."""

    pcm: Samples
    """int16 [n]."""
    rate_hz: int
    called: str
    """The number that is called; "" is anybody."""
    camera: Path | None = None
    """Pictures uint8 [n, height, width, 3] (`.npy`), one a turn from the first sample of `pcm` on."""
    typed: tuple[tuple[float, str], ...] = ()
    """(seconds from the first sample of `pcm`, line)."""


class BrowserDialogues:
    """Calls of one gateway, a group of them at a time."""

    def __init__(self, whip_url: str, lead_in_s: float, tail_s: float) -> None:
        self._whip_url, self._lead_in_s, self._tail_s = whip_url, lead_in_s, tail_s
        self._calls: list[WebrtcCall] = []
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        allow_loopback()
        self._pacer = await self._open.enter_async_context(Pacer())
        self._http = await self._open.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def talk(self, sides: Sequence[Side], apart_s: float) -> None:
        """All of them live at once; until all hung up."""
        calls = [self._call(side) for side in sides]
        with keeping_time():
            tasks = []
            for call, seconds in calls:
                tasks.append(asyncio.create_task(call.run(time.monotonic() + SET_UP_S + seconds)))
                await asyncio.sleep(apart_s)
            await asyncio.gather(*tasks)

    def logs(self) -> list[CallLog]:
        """Of all calls, in their order, once none is live."""
        return [call.finish() for call in self._calls]

    def _call(self, side: Side) -> tuple[WebrtcCall, float]:
        wide = soxr.resample(side.pcm, side.rate_hz, OPUS_HZ)
        before, after = (round(s * OPUS_HZ) for s in (self._lead_in_s, self._tail_s + SET_UP_S + 1.0))
        packets = tuple(encode_opus(np.pad(wide, (before, after)), FRAME_MS))
        plan = CallPlan(
            index=len(self._calls),
            whip_url=f"{self._whip_url}?to={side.called}" if side.called else self._whip_url,
            token="",
            voice=Voice(np.zeros(0, np.int16), packets, FRAME_MS),
            voice_number=0,
            offset=0,
            clip=self._film(side.camera) if side.camera else None,
            loss=0.0,
            seed=1,
            channel=True,
            typed=tuple((self._lead_in_s + seconds, line) for seconds, line in side.typed),
            keeps_messages=True,
        )
        self._calls.append(WebrtcCall(plan, self._pacer, self._http))
        return self._calls[-1], self._lead_in_s + side.pcm.size / side.rate_hz + self._tail_s

    def _film(self, camera: Path) -> Clip:
        """The first picture stands while nothing is said yet, the last one until the call is over."""
        pictures = np.load(camera, mmap_mode="r")
        before = round(self._lead_in_s * 1000 / TURN_MS)
        return make_clip_of(pictures[[0] * before + list(range(len(pictures)))], TURN_MS, HOLD_S)
