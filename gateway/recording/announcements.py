"""Sentences that a caller hears before the conversation: sound files of ours, or the operator's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr

from media.chunk import PCM

LONGEST_S: Final = 60
DISCLOSURE: Final = Path(__file__).parent / "sounds" / "disclosure-en.wav"
"""What callers are told by itself; `sounds/README.md` has its words and its licence."""


def read_announcement(file: Path, rate_hz: int) -> PCM:
    """int16 [n], mono, at that rate. `ValueError` in words for the operator."""
    try:
        told = soundfile.info(file)
        if not 0 < told.duration <= LONGEST_S:
            raise ValueError(
                f"{file} lasts {told.duration:.0f} s: expected more than 0 and up to {LONGEST_S}"
            )
        sound, its_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as wrong:
        raise ValueError(f"{file} cannot be read as WAV or FLAC ({wrong})") from None
    mono = soxr.resample(sound.mean(axis=1), its_hz, rate_hz)
    pcm: PCM = np.clip(np.rint(mono * 32_767), -32_768, 32_767).astype(np.int16)
    return pcm
