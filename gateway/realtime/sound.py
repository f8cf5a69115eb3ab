"""The audio formats of the protocol: bytes to samples, and back. PCM is 24 kHz, G.711 8 kHz; the model has 16.

Pieces may end anywhere, in the middle of a sample too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from media.chunk import PCM
from media.codecs import g711
from media.resample import Resampler
from media.timebase import MODEL_HZ

Name = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]


@dataclass(frozen=True, slots=True)
class Format:
    """One of them."""

    name: Name
    rate_hz: int
    sample_bytes: int

    def told(self) -> dict[str, Any]:
        """As `session.audio` has it."""
        return {"type": self.name} | ({"rate": self.rate_hz} if self.name == "audio/pcm" else {})


PCM_24: Final = Format("audio/pcm", 24_000, 2)
FORMATS: Final[dict[str, Format]] = {
    each.name: each for each in (PCM_24, Format("audio/pcmu", 8_000, 1), Format("audio/pcma", 8_000, 1))
}


class Ear:
    """What a client sends, as samples at its rate."""

    def __init__(self, form: Format = PCM_24) -> None:
        self.form = form
        self._rest = b""

    def decode(self, data: bytes) -> PCM:
        """int16 [n]; half a sample waits for its other half."""
        match self.form.name:
            case "audio/pcmu":
                return g711.decode_mulaw(data)
            case "audio/pcma":
                return g711.decode_alaw(data)
        data = self._rest + data
        whole = len(data) & ~1
        self._rest = data[whole:]
        return np.frombuffer(data[:whole], "<i2").astype(np.int16)


class Mouth:
    """Frames of 20 ms at 16 kHz, as a client wants them."""

    def __init__(self, form: Format = PCM_24) -> None:
        self.form = form
        self._down = Resampler(MODEL_HZ, form.rate_hz)

    def encode(self, frame: bytes) -> bytes:
        """20 ms of int16, native bytes."""
        pcm = self._down.push(np.frombuffer(frame, np.int16))
        match self.form.name:
            case "audio/pcmu":
                return g711.encode_mulaw(pcm)
            case "audio/pcma":
                return g711.encode_alaw(pcm)
        return pcm.astype("<i2").tobytes()
