"""The voice of `digits`: every word that it can say, as sound and as the vectors that the flow head learns.

One synthetic speaker for all of it, English and Spanish: flite's `cmu_us_slt` (Debian: `flite`, BSD-like licence;
made of the CMU ARCTIC recordings, free for any use). Recorded voices at hand lack words, and two speakers would not
be one voice. Spanish words are given to the same voice phone by phone.

What a word sounds like is what the vocoder makes of its vectors, so training hears what a call will hear. One rule:
a word begins with its turn, 10 ms before its first sound, and is over within three.

Shapes: W words, S = 48 sub-frames (3 turns), F = 82 features.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.model import vocoder
from model_server.model.vocabulary import SAID
from model_server.model.vocoder import (
    FEATURES,
    MELS,
    SUBFRAME_SAMPLES,
    SUBFRAMES_PER_TURN,
    VOICING,
    Vocoder,
    mel_edges_hz,
)
from model_server.training import voice_features
from model_server.training.clip import PCM
from model_server.training.mouth import MAX_WORD_TURNS
from model_server.training.voice_features import Features, Sound

SPEAKER = "slt"
CACHE = Path(".cache/voice")
SUBFRAMES = MAX_WORD_TURNS * SUBFRAMES_PER_TURN

SPANISH_PHONES = {
    "cero": "s eh r ow",
    "uno": "uw n ow",
    "dos": "d ow s",
    "tres": "t r eh s",
    "cuatro": "k w aa t r ow",
    "cinco": "s iy ng k ow",
    "seis": "s ey s",
    "siete": "s y eh t ey",
    "ocho": "ow ch ow",
    "nueve": "n w eh v ey",
}
"""What comes nearest among the phones of an American voice (named as in the CMU dictionary)."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a word is said so that it is understood, clear and over a telephone."""

    slowness: float = 1.0
    treble_db: float = 6.0
    """Rise from 500 Hz to 2 kHz."""
    sibilants: bool = True
    """Whether its hiss is repeated below 4 kHz, ..."""
    sibilant_drop: float = 0.4
    """... and by how much weaker, log10 of the amplitude: 8 dB."""
    hiss_db: float = 0.0
    """By how much all that is unvoiced is raised."""
    phones: str | None = None
    """In place of its spelling."""


MANNERS = {
    "say:6": Manner(0.68, 23.0, sibilant_drop=0.6, phones="s s ih1 k s"),  # else an "eight" over a telephone
    "say:13": Manner(sibilants=False),
    "say:30": Manner(treble_db=3.0, sibilants=False),
    "say:60": Manner(0.85, treble_db=0.0),
    "say:cuatro": Manner(sibilants=False),
    "say:nueve": Manner(treble_db=3.0),
    "say:hello": Manner(0.85, treble_db=0.0),
    "say:okay": Manner(sibilants=False),
    "say:is": Manner(treble_db=0.0),
}
"""Of words that are not understood best in the usual manner; chosen with `voice_judge`."""

QUIET = -3.5
"""log10 of the gain: weaker than that everywhere is a pause inside a word."""
SIBILANT_HZ = (3000, 4000, 4300)
"""Hiss above the second frequency is repeated between the first and the third, weaker."""
_FASTER = 0.97  # step by which a word is said faster until it fits

_LONGEST_SAMPLES = (SUBFRAMES - 2) * SUBFRAME_SAMPLES  # the last vectors are silence
_MARGIN_SAMPLES = MODEL_HZ // 100  # before the first and after the last sound
_SOUND_DB = -36.0  # of the loudest 5 ms: what counts as the word
_ACTIVE_DB = -30.0  # of the loudest 20 ms: what counts for the level
_LEVEL_DBFS = -20.0
_ENDED = 0.015  # of the loudest sample: a word is over when it stays below


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """All words of a voice."""

    words: tuple[str, ...]
    """Said tokens, `say:7`."""
    features: Features
    """float32 [W, S, F]; silence after the end of a word."""
    sounds: tuple[PCM, ...]
    """int16 [turns * 3200] of each word: its vectors through the vocoder."""

    def turns(self, word: str) -> int:
        """How many turns the word lasts, 1 to 3."""
        return len(self.sounds[self.words.index(word)]) // TURN_SAMPLES

    def vectors(self, word: str, turn: int) -> Features:
        """float32 [16, F] of turn 0, 1, 2 of the word; silence from then on."""
        if turn >= MAX_WORD_TURNS:
            return silence()
        start = turn * SUBFRAMES_PER_TURN
        return self.features[self.words.index(word), start : start + SUBFRAMES_PER_TURN]

    def statistics(self) -> tuple[Features, Features]:
        """Mean and standard deviation [F] of all vectors, for `FlowHead.normalise_by`."""
        flat = self.features.reshape(-1, FEATURES)
        return flat.mean(0), np.maximum(flat.std(0), 1e-2)


def manner_of(word: str) -> Manner:
    """How this said token is said."""
    return MANNERS.get(word, Manner())


def silence() -> Features:
    """float32 [16, F], what a turn without a word holds."""
    return voice_features.silence(SUBFRAMES_PER_TURN)


def make_voice(words: Sequence[str] = tuple(SAID)) -> Voice:
    """Speak, analyse and vocode these said tokens; `RuntimeError` without flite."""
    return _vocoded(tuple(words), np.stack([_features_of(word) for word in words]))


def load_voice(folder: Path = CACHE) -> Voice:
    """The whole vocabulary's voice, from `folder` where it was made before by the same code."""
    path = folder / f"{SPEAKER}-{_fingerprint()}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        voice = make_voice()
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".npz", delete=False) as file:
            np.savez_compressed(file, words=np.array(voice.words), features=voice.features)
        Path(file.name).replace(path)
    with np.load(path) as stored:
        return _vocoded(tuple(stored["words"].tolist()), stored["features"])


def speak(word: str) -> Sound:
    """A said token as levelled sound in -1..1 at 16 kHz, with 10 ms before its first and after its last sound.

    A word too long for its turns is said faster.
    """
    manner = manner_of(word)
    slowness = manner.slowness
    sound = _trimmed(_flite(word, slowness))
    while len(sound) > _LONGEST_SAMPLES:
        slowness *= _FASTER
        sound = _trimmed(_flite(word, slowness))
    return _levelled(_brightened(sound, manner.treble_db))


def _flite(word: str, slowness: float) -> Sound:
    phones = manner_of(word).phones or SPANISH_PHONES.get(word.removeprefix("say:"))
    text = ("-p", f"pau {phones} pau") if phones else ("-t", SAID[word])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        command = ("flite", "-voice", SPEAKER, "--setf", f"duration_stretch={slowness:.3f}", *text, str(path))
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except FileNotFoundError as error:
            raise RuntimeError(
                "flite is not installed, and the voice is made by it: apt-get install flite"
            ) from error
        sound, rate = soundfile.read(path, dtype="float64")
    assert rate == MODEL_HZ, rate
    return np.asarray(sound)


def _rms(sound: Sound, samples: int) -> Sound:
    """Running level over so many samples."""
    return np.sqrt(np.convolve(sound**2, np.full(samples, 1 / samples), "same"))


def _trimmed(sound: Sound) -> Sound:
    level = _rms(sound, MODEL_HZ // 200)
    heard = np.flatnonzero(level > level.max() * 10 ** (_SOUND_DB / 20))
    return sound[max(0, heard[0] - _MARGIN_SAMPLES) : heard[-1] + _MARGIN_SAMPLES]


def _brightened(sound: Sound, treble_db: float) -> Sound:
    """Rises by so much from 500 Hz to 2 kHz: a telephone takes the treble away."""
    size = len(sound) + MODEL_HZ // 40
    hz = np.fft.rfftfreq(size, 1 / MODEL_HZ)
    octaves = np.clip(np.log2(np.maximum(hz, 1.0) / 500), 0, 2)
    return np.asarray(
        np.fft.irfft(np.fft.rfft(sound, size) * 10 ** (treble_db / 40 * octaves), size)[: len(sound)]
    )


def _levelled(sound: Sound) -> Sound:
    level = _rms(sound, MODEL_HZ // 50)
    active = sound[level > level.max() * 10 ** (_ACTIVE_DB / 20)]
    return sound * 10 ** (_LEVEL_DBFS / 20) / np.sqrt(np.mean(active**2))


def _telephone_proof(features: Features, drop: float) -> Features:
    """With something left of its sibilants below 4 kHz, where a telephone line carries them."""
    low_hz, from_hz, high_hz = SIBILANT_HZ
    hz = mel_edges_hz()[1:-1]
    lower = (hz > low_hz) & (hz < high_hz)
    mels, hiss = features[:, :MELS], 1 - features[:, VOICING, None]
    repeated = np.maximum(mels, mels[:, hz > from_hz].max(1, keepdims=True) - drop)
    mels[:, lower] = ((1 - hiss) * mels + hiss * repeated)[:, lower]
    return features


def _features_of(word: str) -> Features:
    """float32 [S, F]; exactly silence after the word."""
    manner, sound = manner_of(word), speak(word)
    features = voice_features.analyse(sound, SUBFRAMES)
    if manner.sibilants:
        features = _telephone_proof(features, manner.sibilant_drop)
    unvoiced = (features[:, VOICING] < 0.5) & (features[:, :MELS].max(1) > QUIET)
    features[unvoiced, :MELS] += manner.hiss_db / 20
    after = -(-len(sound) // SUBFRAME_SAMPLES)
    features[after:] = voice_features.silence(SUBFRAMES - after)
    return features


def _vocoded(words: tuple[str, ...], features: Features) -> Voice:
    made = Vocoder()
    end = np.broadcast_to(silence(), (len(words), SUBFRAMES_PER_TURN, FEATURES))
    pcm, _ = made(torch.from_numpy(np.concatenate((features, end), 1)), made.start(len(words)))
    return Voice(words, features, tuple(_whole_turns(row) for row in pcm.numpy()))


def _whole_turns(pcm: npt.NDArray[np.int16]) -> PCM:
    """Up to the turn in which it is heard last, at most three."""
    loud = np.abs(pcm.astype(np.int32))
    heard = np.flatnonzero(loud > _ENDED * loud.max())
    turns = min(MAX_WORD_TURNS, int(heard[-1]) // TURN_SAMPLES + 1) if loud.any() else 1
    return pcm[: turns * TURN_SAMPLES].copy()


def _fingerprint() -> str:
    """Of everything that the vectors depend on."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (vocoder, voice_features)]
    sources += [Path(__file__).read_bytes(), json.dumps(list(SAID.items())).encode()]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]
