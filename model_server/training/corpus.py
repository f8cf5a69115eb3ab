"""Words of real speakers out of `../shared/data`, split by speaker: train, validation, test.

A speaker is in one part only, with every clip of his or hers, and which one depends on the name alone:

| source | train | validation | test |
|---|---|---|---|
| Speech Commands, who say digits (65) | the rest | | 22: 55 clips of digits, 3 or more of each |
| Speech Commands, the others (78) | the rest | 1 in 10 | 1 in 5 |
| FSDD (5 men) | the other four | yweweler | |
| amy, allison (prompts of two women) | both | | |
| coffee orders (no speaker ids) | background speech | | |
| one reader of LibriSpeech, one of a speech | | | background speech |
| noises | the rest | | running_tap, sb_noise4 |
| room responses | the rest | | sb_rir4 |

`connected_digits` is not read at all: it is for judging the finished model. Sources: Jackson's free spoken digit
dataset (CC BY-SA 4.0), Speech Commands v0.02 (Warden, arXiv:1804.03209, CC BY 4.0); the others are named in
`LICENSES.md` beside the data.
"""

from __future__ import annotations

import csv
import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from media.timebase import MODEL_HZ
from model_server.training.clip import PCM, Clip, Floats, Word, faded, speech_span, trimmed

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STOP = "stop"

_TEST_DIGIT_SPEAKERS = 22
_FSDD_VALIDATION = "fsdd_yweweler"
_TEST_NOISES, _TEST_ROOMS = {"running_tap", "sb_noise4"}, {"sb_rir4"}
_NOT_WORDS = {"demo-abouttotry", "demo-congrats", "demo-instruct", "demo-thanks", "star", "pound"}


class Part(enum.StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Row:
    """One file of the manifest."""

    path: str
    kind: str
    label: str
    speaker: str


def manifest(data: Path = DATA) -> list[Row]:
    """All rows of `MANIFEST.tsv`. Raises FileNotFoundError, saying what to do, where the data is not."""
    path = data / "MANIFEST.tsv"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: training needs the data set; give its folder, or put it there")
    with path.open(newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Row(row["path"], row["kind"], row["label"], row["speaker"]) for row in rows]


def part_of_speakers(rows: list[Row]) -> dict[str, Part]:
    """Speaker -> part, for every speaker of words (Speech Commands, FSDD, prompt voices)."""
    ours = [row for row in rows if row.speaker and row.path.startswith(("speech/sc", "speech/fsdd", "voice"))]
    commands = {row.speaker for row in ours if row.path.startswith("speech/sc")}
    digit_speakers = {row.speaker for row in ours if row.path.startswith("speech/sc") and row.kind == "digit"}
    parts = {row.speaker: Part.TRAIN for row in ours}
    ordered = sorted(digit_speakers, key=_shuffle_key)
    parts.update(dict.fromkeys(ordered[:_TEST_DIGIT_SPEAKERS], Part.TEST))
    for at, speaker in enumerate(sorted(commands - digit_speakers, key=_shuffle_key)):
        if at % 5 == 0:
            parts[speaker] = Part.TEST
        elif at % 10 == 1:
            parts[speaker] = Part.VALIDATION
    if _FSDD_VALIDATION in parts:
        parts[_FSDD_VALIDATION] = Part.VALIDATION
    return parts


def load(path: Path) -> PCM:
    """A sound file as int16 [n] at 16 kHz, its first channel."""
    pcm, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
    mono = np.ascontiguousarray(pcm[:, 0])
    if rate_hz == MODEL_HZ:
        return mono
    resampled = soxr.resample(mono.astype(np.float32), rate_hz, MODEL_HZ)
    return np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)


def words(part: Part, data: Path = DATA) -> Iterator[Clip]:
    """Every clip of one word in a part, in the manifest's order, trimmed to the speech.

    Labels are words as they are written: `seven`, `stop`, `happy`. Clips in which no speech is found are left out.
    """
    rows = manifest(data)
    parts = part_of_speakers(rows)
    for row in rows:
        label = _label(row)
        if label is None or parts.get(row.speaker) is not part:
            continue
        clip = trimmed(load(data / row.path), label, row.speaker, row.path)
        if clip is not None:
            yield clip


def background_speech(part: Part, data: Path = DATA) -> Iterator[PCM]:
    """People who do not talk to us, int16 [n]: coffee orders in training, a reader and a speech in the test."""
    prefix = {Part.TRAIN: ("speech/other/s2i",), Part.TEST: ("speech/other/libri", "speech/other/jfk")}
    for row in manifest(data):
        if part in prefix and row.path.startswith(prefix[part]):
            yield load(data / row.path)


def phrases(data: Path = DATA) -> Iterator[Clip]:
    """`how are you`, `goodnight` and jokes, without speaker ids: for training only, as words that mean nothing."""
    for row in manifest(data):
        if row.kind == "phrase":
            pcm = load(data / row.path)
            start, end = speech_span(pcm)
            if end > start:
                yield Clip(faded(pcm[start:end]), (Word(row.label, 0, end - start),), "phrases", row.path)


def noises(part: Part, data: Path = DATA) -> dict[str, PCM]:
    """Name -> int16 [n], at the level of the file."""
    return _files("noise", part, _TEST_NOISES, data)


def rooms(part: Part, data: Path = DATA) -> list[Floats]:
    """Room responses, float32 [n] at 16 kHz, the direct sound first and its energy 1, at most 0.4 s long."""
    out = []
    for pcm in _files("rir", part, _TEST_ROOMS, data).values():
        response = pcm.astype(np.float32)
        response = response[int(np.abs(response).argmax()) :][: MODEL_HZ * 2 // 5].copy()
        response *= np.linspace(1.0, 0.0, len(response), dtype=np.float32)
        out.append(response / np.sqrt(np.sum(response * response)))
    return out


def _files(kind: str, part: Part, held_out: set[str], data: Path) -> dict[str, PCM]:
    found = {}
    for row in manifest(data):
        name = Path(row.path).stem
        if row.kind == kind and part is not Part.VALIDATION and (name in held_out) == (part is Part.TEST):
            found[name] = load(data / row.path)
    return found


def _label(row: Row) -> str | None:
    """The word that is said, or None where the file is not one word (or not for training)."""
    if row.path.startswith(("speech/sc", "speech/fsdd")):
        return row.label if row.kind in {"digit", "command", "other_word"} else None
    if row.path.startswith("voice/amy"):
        return row.label
    if row.path.startswith("voice/allison/digits_"):
        name = row.label
        if name.isdigit():
            return DIGITS[int(name)] if int(name) < 10 else f"number {name}"
        return None if name in _NOT_WORDS or name.startswith("h-") else name
    return None


def _shuffle_key(speaker: str) -> str:
    """An order of speakers that depends on nothing but their names; with this salt all digits are in both ends."""
    return hashlib.sha256(f"microturn speaker {speaker}".encode()).hexdigest()
