"""What is said over a bad network, and as which packets: read sentences and digits, coded as we and browsers do.

Sound files are those beside the checkout. All sound is int16 at `RATE`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from media.codecs.opus import OpusEncoder
from media.red import pack_red
from media.timebase import FRAME_MS

Samples = NDArray[np.int16]

DATA: Final = Path(__file__).parents[3] / "shared/data"  # beside the checkout
RATE: Final = 16_000
FRAME: Final = RATE * FRAME_MS // 1000
OPUS_HZ: Final = 48_000
OPUS_TYPE, RED_TYPE = 111, 63
"""Payload types, as Chromium has them."""
EXPECTED_LOSS: Final = 10
"""Percent that an encoder with FEC is told."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One recording."""

    name: str
    text: str
    pcm: Samples


def sentences() -> list[Sentence]:
    """Read English, wideband, one woman and one man. Raises OSError without the data."""
    files = sorted((DATA / "speech/other").glob("libri_*.flac")) + sorted(
        (DATA / "speech/other").glob("jfk*.flac")
    )
    return [Sentence(path.stem, "", _read(path)) for path in _there(files)]


def digit_strings() -> list[Sentence]:
    """Strings of 5 to 12 digits, read by one man, with their words. Raises OSError without the data."""
    with (DATA / "MANIFEST.tsv").open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        labels = {Path(row["path"]).stem: row["label"] for row in rows if "/connected_digits/" in row["path"]}
    files = sorted((DATA / "speech/connected_digits").glob("*.flac"))
    return [Sentence(path.stem, labels[path.stem], _read(path)) for path in _there(files)]


def joined(parts: Sequence[Sentence], seconds: float) -> Samples:
    """One after the other, round and round, until it is full."""
    wanted = round(seconds * RATE)
    found: list[Samples] = []
    while sum(map(len, found)) < wanted:
        found += [part.pcm for part in parts]
    return np.concatenate(found)[:wanted]


def clean_opus(pcm: Samples) -> list[bytes]:
    """As our encoder codes for a line that loses nothing: CELT, 32 kbit/s."""
    return _ours(OpusEncoder(RATE), pcm)


def fec_opus(pcm: Samples) -> list[bytes]:
    """As it codes for one that loses: SILK with in-band FEC, 32 kbit/s."""
    encoder = OpusEncoder(RATE)
    encoder.tune(EXPECTED_LOSS, 32_000, 0)
    return _ours(encoder, pcm)


def hybrid_opus(pcm: Samples) -> list[bytes]:
    """As a browser codes speech: 48 kHz, 40 kbit/s, in-band FEC; by the libopus of FFmpeg. libopus takes hybrid."""
    context: Any = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = OPUS_HZ, "mono", "s16"
    context.bit_rate, context.time_base = 40_000, Fraction(1, OPUS_HZ)
    context.options = {"application": "voip", "frame_duration": "20", "vbr": "on", "fec": "1"}
    context.options |= {"packet_loss": str(EXPECTED_LOSS)}
    wide = soxr.resample(pcm, RATE, OPUS_HZ)
    size, packets = FRAME_MS * OPUS_HZ // 1000, []
    for start in range(0, wide.size - size + 1, size):
        frame: Any = av.AudioFrame.from_ndarray(wide[None, start : start + size].copy(), "s16", "mono")
        frame.sample_rate, frame.pts = OPUS_HZ, start
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets + [bytes(packet) for packet in context.encode(None)]


CODINGS: Final[dict[str, Callable[[Samples], list[bytes]]]] = {
    "celt": clean_opus,
    "fec": fec_opus,
    "hybrid": hybrid_opus,
}


def redundant(packets: Sequence[bytes]) -> list[bytes]:
    """Each with the one before it once more (RFC 2198), as Chromium sends them."""
    ticks = OPUS_HZ * FRAME_MS // 1000
    return [pack_red(OPUS_TYPE, new, old, ticks) for old, new in zip([b"", *packets], packets, strict=False)]


def _ours(encoder: OpusEncoder, pcm: Samples) -> list[bytes]:
    return [encoder.encode(pcm[at : at + FRAME]) for at in range(0, len(pcm) - FRAME + 1, FRAME)]


def _there(files: list[Path]) -> list[Path]:
    if not files:
        raise OSError(f"no speech in {DATA}: the weak-network lab needs its sentences and digits")
    return files


def _read(path: Path) -> Samples:
    pcm, rate_hz = soundfile.read(path, dtype="int16")
    right: Samples = pcm if rate_hz == RATE else soxr.resample(pcm, rate_hz, RATE)
    return right
