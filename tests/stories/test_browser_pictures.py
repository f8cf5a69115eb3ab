"""What a browser's camera sees is what lies in the slots: a real clip, from Chromium to shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from loadtests.gateway_under_test import GatewayUnderTest
from tests.support.camera import psnr_db
from tests.support.chromium import Chromium, executable, speech, write_camera, write_voice
from tests.support.table_watch import TableWatch

pytestmark = [pytest.mark.processes, pytest.mark.browser]

Picture = npt.NDArray[np.uint8]
WANTED = 12


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    executable()
    return write_camera(tmp_path / "foreman.y4m")


@pytest.fixture
def chromium(tmp_path: Path, clip: Path) -> Iterator[Chromium]:
    with Chromium.start(write_voice(tmp_path / "voice.wav", speech(5.0)), clip) as started:
        yield started


def pictures(clip: Path) -> list[Picture]:
    """Of the clip as Chromium's fake camera plays it, in the table's size."""
    with av.open(str(clip)) as container:
        return [frame.reformat(320, 240, "rgb24").to_ndarray() for frame in container.decode(video=0)]


def test_the_frames_in_the_slots_are_those_of_the_camera(
    gateway: GatewayUnderTest, chromium: Chromium, clip: Path
) -> None:
    page = chromium.open(gateway.http)
    with TableWatch(gateway.run_dir / "model.sock") as watch:
        page.get_by_role("button", name="Call", exact=True).click()
        page.wait_for_selector("body[data-state=live]", timeout=15_000)
        page.get_by_role("button", name="Camera on", exact=True).click()
        page.wait_for_selector("#self:not([hidden])")
        for _ in range(300):
            watch.look()
            if len(watch.frames) >= WANTED:
                break
            page.wait_for_timeout(50)
        page.get_by_role("button", name="Hang up", exact=True).click()
        page.wait_for_selector("body[data-state=idle]", timeout=5_000)
        seen = [frame for _, frame in watch.frames]
    assert len(seen) >= WANTED
    times_ns = [frame.captured_ns for frame in seen]
    assert times_ns == sorted(times_ns) and len(set(times_ns)) == len(times_ns)
    source = pictures(clip)
    likeness = [max(psnr_db(frame.rgb, picture) for picture in source) for frame in seen]
    # 200 kbit/s of real time VP8, twice scaled: good, and far from any other picture
    assert float(np.median(likeness)) > 26.0, likeness
    upside_down = [max(psnr_db(frame.rgb[::-1], picture) for picture in source) for frame in seen[:3]]
    assert max(upside_down) < 16.0, upside_down
