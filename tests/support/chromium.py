"""Chromium as a caller: driven headless, with speech for a microphone and a clip for a camera.

    with Chromium.start(tmp_path, voice=speech) as chromium:
        page = chromium.open(url)
        page.get_by_role("button", name="Call").click()
        ...
        pieces = chromium.heard(page)

The sound that the page receives is taken behind the browser's jitter buffer and decoder, sample by sample,
before the speaker. One rule: the page under test is not changed; what listens in sits in RTCPeerConnection.

Playwright's event loop runs in this thread while a browser is open: `asyncio.run` fails meanwhile, and so does a
second `start`. Fixtures that hold one live no longer than a module.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import shutil
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

DATA = Path(__file__).parents[3] / "shared/data"
RATE_HZ = 48_000  # of the microphone file and of what is heard
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-timer-throttling",
)

Pcm = NDArray[np.int16]

# Taken from the track itself: an AudioContext would resample, and a MediaRecorder encode.
_LISTEN = """
(() => {
  const Native = window.RTCPeerConnection;
  window.heardPieces = [];
  window.peerConnections = [];
  const read = async (track) => {
    const piece = { startMs: performance.now(), rate: 0, gaps: 0, blocks: [] };
    window.heardPieces.push(piece);
    const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 1000 }).readable.getReader();
    for (let next = null; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      piece.rate = value.sampleRate;
      if (next !== null && Math.abs(value.timestamp - next) > 1000) piece.gaps += 1;
      next = value.timestamp + value.duration;
      const block = new Float32Array(value.numberOfFrames);
      value.copyTo(block, { planeIndex: 0, format: 'f32-planar' });
      piece.blocks.push(Int16Array.from(block, (x) => Math.max(-32768, Math.min(32767, Math.round(32768 * x)))));
      value.close();
    }
  };
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      window.peerConnections.push(this);
      this.addEventListener('track', ({ track }) => { if (track.kind === 'audio') read(track); });
    }
  };
})();
"""

_TAKE = """
() => window.heardPieces.map(({ startMs, rate, gaps, blocks }) => {
  const bytes = new Uint8Array(2 * blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) { bytes.set(new Uint8Array(block.buffer), at); at += block.byteLength; }
  let text = '';
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return { startMs, rate, gaps, pcm: btoa(text) };
})
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came over one connection, from its first sample to now."""

    start_ms: float  # of the page's clock (performance.now)
    rate_hz: int
    gaps: int  # holes in the time stamps of the blocks
    pcm: Pcm  # mono


def executable() -> str:
    """Chromium's path; skips the test when it or Playwright is not here."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("Playwright's Python package is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium on PATH (looked for {', '.join(NAMES)})")
    return found


class Chromium:
    """One browser with one context; its pages share permissions and storage."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.complaints: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        voice: Path | None = None,
        camera: Path | None = None,
        flags: Sequence[str] = (),
        left_out: Sequence[str] = (),
        **context: Any,
    ) -> Iterator[Chromium]:
        """`voice` is a WAV file, played once; `camera` a Y4M or MJPEG file, in a loop. Closed at the end.

        `left_out` names flags of ours to go without; `context` is for Playwright's `new_context`, such as
        `viewport` or `color_scheme`.
        """
        path = executable()
        from playwright.sync_api import sync_playwright

        arguments = [flag for flag in FLAGS if flag not in left_out] + list(flags)
        arguments += [f"--use-file-for-fake-audio-capture={voice}%noloop"] if voice else []
        arguments += [f"--use-file-for-fake-video-capture={camera}"] if camera else []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=path, args=arguments, chromium_sandbox=os.geteuid() != 0
            )
            try:
                yield cls(browser.new_context(**context))
            finally:
                browser.close()

    def open(self, url: str) -> Page:
        """A page that is listened in to. What it complains about on its console is in `complaints`."""
        page = self.context.new_page()
        page.add_init_script(_LISTEN)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._note(message.type, message.text))
        page.goto(url)
        return page

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(f"{kind}: {text}")

    @staticmethod
    def heard(page: Page) -> list[Heard]:
        """What the page has received since it was loaded, a piece for each connection."""
        return [
            Heard(
                piece["startMs"],
                int(piece["rate"]),
                piece["gaps"],
                np.frombuffer(base64.b64decode(piece["pcm"]), np.int16),
            )
            for piece in page.evaluate(_TAKE)
        ]


def run_module(page: Page, module: str, expression: str, *arguments: object) -> Any:
    """Value of an expression over the exports `m` of a console module and the arguments `a`.

    `page` must be on the gateway's origin: the module comes from its `console/` folder.
    """
    return page.evaluate(
        f"async (a) => {{ const m = await import('/console/{module}'); return ({expression}); }}",
        list(arguments),
    )


def speech(seconds: float = 10.0) -> Pcm:
    """Recorded digits, one after the other, at 48 kHz. Skips the test when they are not here."""
    files = sorted((DATA / "speech/connected_digits").glob("*.flac"))
    if not files:
        pytest.skip("../shared/data with recorded speech is not here")
    parts: list[NDArray[np.float32]] = []
    while sum(map(len, parts)) < seconds * RATE_HZ:
        pcm, rate_hz = soundfile.read(files[len(parts) % len(files)], dtype="float32")
        parts.append(soxr.resample(pcm, rate_hz, RATE_HZ))
    return (32767 * np.concatenate(parts)[: int(seconds * RATE_HZ)]).clip(-32768, 32767).astype(np.int16)


def write_voice(path: Path, pcm: Pcm, silence_s: float = 0.0) -> Path:
    """A microphone file, 48 kHz mono, with silence before the sound."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(np.zeros(int(silence_s * RATE_HZ), np.int16).tobytes() + pcm.tobytes())
    return path


def write_camera(
    path: Path,
    clip: str = "foreman.mp4",
    size: tuple[int, int] = (640, 480),
    framerate: int = 15,
    frames: int = 45,
) -> Path:
    """A camera file (Y4M) of the first frames of a clip, scaled. Skips the test when the clip is not here."""
    source = DATA / "video" / clip
    if not source.is_file():
        pytest.skip("../shared/data with video clips is not here")
    av = pytest.importorskip("av", reason="camera files are made with PyAV")
    with av.open(str(source)) as container, path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{size[0]} H{size[1]} F{framerate}:1 Ip A1:1 C420jpeg\n".encode())
        for _, frame in zip(range(frames), container.decode(video=0), strict=False):
            picture = frame.reformat(*size, format="yuv420p").to_ndarray()
            file.write(b"FRAME\n" + picture.tobytes())
    return path
