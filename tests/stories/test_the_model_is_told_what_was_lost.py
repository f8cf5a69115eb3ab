"""Calls that lose packets: each 50 ms of the model server's chunks says how much of it was made up.

The callers sound without a pause. Concealment falls silent when a gap is long, so a chunk's samples themselves show
where there was one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from loadtests.gateway_under_test import GatewayUnderTest
from media.chunk import QUARTER_SAMPLES
from media.codecs.g711 import encode_mulaw
from tests.support.lossy_relay import is_media
from tests.support.raw_call import FRAME_TICKS, RawCall
from tests.support.table_watch import TableWatch
from tests.support.webrtc_caller import HZ, calling

pytestmark = pytest.mark.processes

LOUD, FAINT = 1_000.0, 1.0
"""RMS of a quarter."""
GAPS, GAP_PACKETS = 4, 15


@pytest.fixture
def watch(gateway: GatewayUnderTest) -> Iterator[TableWatch]:
    with TableWatch(gateway.run_dir / "model.sock") as opened:
        yield opened


def test_over_a_telephone(gateway: GatewayUnderTest, watch: TableWatch) -> None:
    sound = encode_mulaw(np.random.default_rng(1).normal(0, 5_000, FRAME_TICKS).astype(np.int16))
    with RawCall(gateway.uri) as call:
        for gap in range(GAPS):
            call.talk(talk_s(gap), sound)
            watch.look()
            call.lose(GAP_PACKETS)
            watch.look()
        call.talk(0.5, sound)
        watch.look()
    assert_told(watch)


def test_over_webrtc(gateway: GatewayUnderTest, watch: TableWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = (9_000 * np.sin(2 * np.pi * 400 * np.arange(20 * HZ) / HZ)).astype(np.int16)
    is_losing = False

    async def story() -> None:
        nonlocal is_losing
        async with calling(gateway.http, sound) as caller:
            await caller.message("hello")
            sender = caller.peer.getSenders()[0].transport
            send = sender._send_rtp

            async def lossy(data: bytes) -> Any:
                if not (is_losing and is_media(data)):
                    await send(data)

            monkeypatch.setattr(sender, "_send_rtp", lossy)
            for turn in range(2 * GAPS + 1):
                await asyncio.sleep(GAP_PACKETS * 0.02 if is_losing else talk_s(turn // 2))
                watch.look()
                is_losing = not is_losing

    asyncio.run(story())
    assert_told(watch)


def talk_s(gap: int) -> float:
    """How long to sound before a gap: no two lie alike to the quarters of a chunk, so one is cut by their edge."""
    return 0.5 + 0.02 * gap


def assert_told(watch: TableWatch) -> None:
    """What is silent was made up, what was not made up is loud, and all gaps are there."""
    pcm = np.concatenate([samples for _, samples in watch.sound]).reshape(-1, QUARTER_SAMPLES)
    level = np.sqrt((pcm.astype(float) ** 2).mean(axis=1))
    made_up = np.array(watch.concealed).ravel()
    begin = int(np.argmax(level > LOUD)) + 1
    level, made_up = level[begin:], made_up[begin:]
    print(np.round(level).astype(int).tolist(), made_up.tolist())
    assert set(made_up[level < FAINT]) == {QUARTER_SAMPLES}
    assert level[made_up == 0].min() > LOUD / 2
    assert (level < FAINT).sum() >= GAPS and (made_up == 0).sum() >= 4 * GAPS
    partly = (made_up > 0) & (made_up < QUARTER_SAMPLES)
    assert partly.any()
    runs = np.count_nonzero(np.diff((made_up > 0).astype(int)) == 1)
    assert runs >= GAPS and made_up.sum() >= 0.8 * GAPS * GAP_PACKETS * 320
