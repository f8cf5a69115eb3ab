"""flite (Debian: `flite`, BSD-like licence): sound, and the time of each word in it.

It prints the end of every phone; a word is found again by its phones, which are asked for word by word first.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from media.timebase import MODEL_HZ
from model_server.training.clip import PCM
from model_server.training.corpus import load

COMMAND = "flite"
VOICES = ("slt", "awb", "rms", "kal", "kal16")
_PAUSE = "pau"


def speak(voice: str, words: Sequence[str], stretch: float, pitch_hz: int) -> tuple[PCM, list[int]]:
    """Words in one breath -> int16 [n] at 16 kHz and each word's first sample; no samples where the words were
    not found again.

    `stretch` above 1 is slower; `pitch_hz` is the mean that intonation moves about.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        setting = ("--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={pitch_hz}")
        printed = _run(voice, "-psdur", *setting, "-t", " ".join(words) + ".", "-o", str(path))
        phones = [(name, float(end)) for name, end in (item.rsplit(":", 1) for item in printed)]
        starts = _starts(phones, [_phones_of(voice, word) for word in words])
        return (load(path), starts) if starts else (load(path)[:0], [])


@cache
def _phones_of(voice: str, word: str) -> tuple[str, ...]:
    return tuple(phone for phone in _run(voice, "-ps", "-t", word, "-o", "/dev/null") if phone != _PAUSE)


def _run(voice: str, *arguments: str) -> list[str]:
    done = subprocess.run([COMMAND, "-voice", voice, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.split()


def _starts(phones: Sequence[tuple[str, float]], words: Sequence[tuple[str, ...]]) -> list[int]:
    """First sample of each word; empty when the phones are not those of the words said alone."""
    starts, at, before = [], 0, 0.0
    spoken = []
    for name, end in phones:
        if name != _PAUSE:
            spoken.append((name, before))
        before = end
    for word in words:
        if tuple(name for name, _ in spoken[at : at + len(word)]) != word:
            return []
        starts.append(int(spoken[at][1] * MODEL_HZ))
        at += len(word)
    return starts if at == len(spoken) else []
