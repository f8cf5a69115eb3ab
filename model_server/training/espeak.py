"""espeak-ng by its library (Debian: `espeak-ng`, GPL-3.0-or-later): sound, and the time of each word in it.

The command line gives no word times; the library's events do. It keeps one global state, hence one `Espeak` a
process. Constants: `speak_lib.h` of espeak-ng 1.51.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr

from media.timebase import MODEL_HZ
from model_server.training.clip import PCM

LIBRARY = "libespeak-ng.so.1"
_DATA = (Path("/usr/lib/x86_64-linux-gnu/espeak-ng-data"), Path("/usr/share/espeak-ng-data"))
_SYNCHRONOUS, _UTF8, _CHARACTERS, _OK = 2, 1, 1, 0
_RATE, _PITCH, _RANGE = 1, 3, 4
_LIST_END, _WORD = 0, 1


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """Renders one line at a time; raises OSError where the library is absent."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._rate_hz = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0))
        if self._rate_hz <= 0:
            raise OSError(f"{LIBRARY} does not start ({self._rate_hz}): reinstall the package espeak-ng")
        self._blocks: list[PCM] = []
        self._starts: list[int] = []
        self._callback = _CALLBACK(self._take)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def voice(self, name: str, words_per_minute: int, pitch: int, pitch_range: int) -> bool:
        """Sets what speaks, as `en-gb+f3`, pitch and range in 0..99; whether the voice exists."""
        if self._library.espeak_SetVoiceByName(name.encode()) != _OK:
            return False
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        return True

    def speak(self, words: Sequence[str]) -> tuple[PCM, list[int]]:
        """Words in one breath -> int16 [n] at 16 kHz and the first sample of each word that it marked."""
        self._blocks, self._starts = [], []
        text = (" ".join(words) + ".").encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        sound = np.concatenate([np.zeros(1, np.int16), *self._blocks]).astype(np.float32)
        pcm = np.clip(soxr.resample(sound, self._rate_hz, MODEL_HZ), -32768, 32767).astype(np.int16)
        return pcm, [start * MODEL_HZ // self._rate_hz for start in self._starts]

    def _take(
        self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes.Array[_Event]
    ) -> int:
        if samples and count:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        at = 0
        while events[at].type != _LIST_END:
            if events[at].type == _WORD:
                self._starts.append(events[at].sample)
            at += 1
        return 0


def variants() -> list[str]:
    """Names of espeak-ng's voice variants (`f3`, `Alex`, `klatt2`, ...), sorted; empty where it is absent."""
    folder = next((data / "voices" / "!v" for data in _DATA if data.exists()), None)
    return sorted(path.name for path in folder.iterdir()) if folder and folder.exists() else []
