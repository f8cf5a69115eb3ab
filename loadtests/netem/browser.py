"""The far end's reference: a headless Chromium with our page as the caller, and what it heard behind its NetEq.

    WAV file -> fake microphone -> Chromium -> the wire -> gateway -> the wire -> NetEq -> samples of the track

The samples are taken from the received track itself, before the speaker. The page is the gateway's own, unchanged;
what listens in sits in RTCPeerConnection. Times are of the page's clock, moved to the monotonic one; when the
microphone began is known to a few ten ms, so delays have an offset that is the same all through a call.

One rule: nothing of it is imported where there is no browser call. Needs Playwright and a Chromium on PATH.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soxr

from loadtests.netem.score import Heard
from loadtests.netem.speech import RATE, Samples

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
MICROPHONE_HZ: Final = 48_000
LIVE_MS: Final = 20_000
FLAGS: Final = (
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
)
STATISTICS: Final = (
    "packetsLost",
    "packetsDiscarded",
    "fecPacketsReceived",
    "fecPacketsDiscarded",
    "retransmittedPacketsReceived",
    "nackCount",
    "totalSamplesReceived",
    "concealedSamples",
    "silentConcealedSamples",
    "concealmentEvents",
    "insertedSamplesForDeceleration",
    "removedSamplesForAcceleration",
    "jitterBufferDelay",
    "jitterBufferTargetDelay",
    "jitterBufferEmittedCount",
)
"""Of W3C's webrtc-stats, inbound-rtp."""
_LISTEN: Final = """
(() => {
  const Native = window.RTCPeerConnection;
  const lab = (window.netemLab = { blocks: [], startMs: 0, microphoneMs: 0, gaps: 0, rate: 0, wires: [] });
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (...args) => {
    const stream = await ask(...args);
    if (stream.getAudioTracks().length) lab.microphoneMs = performance.now();
    return stream;
  };
  const read = async (track) => {
    const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 1000 }).readable.getReader();
    for (let next = null; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      lab.rate = value.sampleRate;
      lab.startMs ||= performance.now();
      const missing = next === null ? 0 : Math.round((value.timestamp - next) * value.sampleRate / 1e6);
      if (missing > value.sampleRate / 1000) {
        lab.gaps += 1;
        lab.blocks.push(new Int16Array(Math.min(missing, 10 * value.sampleRate)));
      }
      next = value.timestamp + value.duration;
      const block = new Float32Array(value.numberOfFrames);
      value.copyTo(block, { planeIndex: 0, format: 'f32-planar' });
      lab.blocks.push(Int16Array.from(block, (x) => Math.max(-32768, Math.min(32767, Math.round(32768 * x)))));
      value.close();
    }
  };
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      lab.wires.push(this);
      this.addEventListener('track', ({ track }) => { if (track.kind === 'audio') read(track); });
    }
  };
})();
"""
_TAKE: Final = """
async () => {
  const { blocks, startMs, microphoneMs, gaps, rate, wires } = netemLab;
  const bytes = new Uint8Array(2 * blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) { bytes.set(new Uint8Array(block.buffer), at); at += block.byteLength; }
  let text = '';
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  const all = [...(await wires.at(-1).getStats()).values()];
  const inbound = all.find((entry) => entry.type === 'inbound-rtp' && entry.kind === 'audio');
  const origin = performance.timeOrigin;
  return { startMs: origin + startMs, microphoneMs: origin + microphoneMs, gaps, rate, pcm: btoa(text), inbound };
}
"""


@dataclass(frozen=True, slots=True)
class BrowserCall:
    """One finished call."""

    heard: Heard
    said_ns: int
    """When the microphone's first sample was said, monotonic, to a few ten ms."""
    statistics: dict[str, float]
    """NetEq's, over the call; and `gaps`, holes in what the page could read of the track."""


def why_not() -> str:
    """What this machine lacks; "" when nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright's Python package is not installed"
    if _executable() is None:
        return f"no Chromium on PATH (looked for {', '.join(NAMES)})"
    return ""


def call(base_url: str, token: str, said: Samples) -> BrowserCall:
    """One call in which all of `said` is said. Raises RuntimeError when it does not come about."""
    if missing := why_not():
        raise RuntimeError(missing)
    with tempfile.TemporaryDirectory() as folder:
        voice = _write_voice(Path(folder) / "voice.wav", said)
        with _page(base_url, token, voice) as page:
            page.wait_for_timeout(1000 * len(said) / RATE + 1000)
            taken = page.evaluate(_TAKE)
            page.get_by_role("button", name="Hang up", exact=True).click()
            page.wait_for_timeout(300)
    if not taken["rate"] or not taken["inbound"]:
        raise RuntimeError("the browser heard nothing")
    pcm = np.frombuffer(base64.b64decode(taken["pcm"]), np.int16)
    heard = Heard(soxr.resample(pcm, taken["rate"], RATE), _monotonic_ns(taken["startMs"]))
    found = {name: float(taken["inbound"][name]) for name in STATISTICS if name in taken["inbound"]}
    return BrowserCall(heard, _monotonic_ns(taken["microphoneMs"]), found | {"gaps": float(taken["gaps"])})


@contextlib.contextmanager
def _page(base_url: str, token: str, voice: Path) -> Iterator[Any]:
    """The gateway's page in a call, its sound as it is."""
    from playwright.sync_api import Error, sync_playwright

    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={voice}%noloop"]
    flags.append(f"--unsafely-treat-insecure-origin-as-secure={base_url}")  # else no microphone
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=_executable(), args=flags, chromium_sandbox=os.geteuid() != 0
            )
            try:
                page = browser.new_context().new_page()
                page.add_init_script(_LISTEN)
                page.goto(f"{base_url}/#token={token}")
                page.get_by_text("Devices and sound").click()
                page.get_by_label("I use headphones").check()
                page.get_by_role("button", name="Call", exact=True).click()
                page.wait_for_selector("body[data-call], #notice:not([hidden])", timeout=LIVE_MS)
                if page.evaluate("document.body.dataset.state") != "live":
                    raise RuntimeError(f"the page says: {page.locator('#notice').inner_text()}")
                yield page
            finally:
                browser.close()
    except Error as error:
        raise RuntimeError(f"Chromium: {error}") from None


def _executable() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _write_voice(path: Path, said: Samples) -> Path:
    pcm = soxr.resample(said, RATE, MICROPHONE_HZ)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, MICROPHONE_HZ, 0, "NONE", ""))
        file.writeframes(pcm.tobytes())
    return path


def _monotonic_ns(epoch_ms: float) -> int:
    return time.monotonic_ns() + round(epoch_ms * 1e6) - time.time_ns()
