"""`python -m model_server.training.digits_bench FOLDER`: a set about digits in the layout of Full-Duplex-Bench.

| subset | what happens | published with this task |
|---|---|---|
| `v1_0/digits_pause_handling` | six digits with a pause of 0.7 to 1 s; the last one ends it | Candor, synthetic |
| `v1_0/digits_turn_taking` | six digits in an uneven rhythm, then silence | Candor |
| `v1_0/digits_user_interruption` | three more digits while the first six are said back | synthetic |
| `v1_0/digits_backchannel` | somebody speaks for 8 s, to nobody | ICC |
| `v1_5/user_interruption` | "stop" while eight digits are said back | 1.5 |
| `v1_5/user_backchannel` | "yes" meanwhile | 1.5 |
| `v1_5/talking_to_other` | two words that are no digits, more softly | 1.5 |
| `v1_5/background_speech` | somebody in the background | 1.5 |
| `v3` | digits with a false start, 48 kHz; no tool is expected | 3 |

All words are of real speakers that were never trained on (`corpus.py`, the test part), put together from a seed:
the same files each time. Nobody reacts: a sample is played from its first to its last sound. The model is not told
how many digits there will be. `clean_input.wav` of version 1.5 is the same without what happens.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from media.timebase import MODEL_HZ
from model_server.training import corpus
from model_server.training.bank import SPEECH_RMS
from model_server.training.cases import PHASES_S, READ_BACK_S, Track, Word, one_of
from model_server.training.clip import PCM
from model_server.training.corpus import DATA, DIGITS, Part

COUNT = 12
V3_HZ = 48_000
DIGITS_IN_STRING, DIGITS_IN_LONG = 6, 8
BACKCHANNEL_S = 8.0
OTHERS = ("left", "down", "up", "off", "follow", "backward")
PERSONA = "read-back"
"""In `persona.txt` beside each sample, which the published sets do not have."""

Files = dict[str, Any]
"""Name -> sound (PCM at 16 kHz), text, or what goes into a JSON file."""


def pause_handling(number: int, data: Path) -> Files:
    track, rng = _begun(1, number)
    longest = 1 + int(rng.integers(DIGITS_IN_STRING - 2))
    pause: tuple[float, float] = (0.0, 0.0)
    for at in range(DIGITS_IN_STRING):
        gap_s = 0.0 if not at else float(rng.uniform(0.7, 1.0) if at == longest else rng.uniform(0.3, 0.6))
        before_s = track.now_s
        word = _digit(track, rng, data, gap_s)
        if at == longest:
            pause = before_s, word.start_s
    pcm = track.pcm(0.0)
    return _version_1(track, pcm) | {"pause.json": _annotated("[PAUSE]", *pause)}


def turn_taking(number: int, data: Path) -> Files:
    track, rng = _begun(2, number)
    for at in range(DIGITS_IN_STRING):
        _digit(track, rng, data, float(rng.uniform(0.1, 0.5)) if at else 0.0)
    end_s = track.now_s
    pcm = track.pcm(2.5 + READ_BACK_S * DIGITS_IN_STRING)
    taken = _annotated("[TURN-TAKING]", end_s, len(pcm) / MODEL_HZ)
    return _version_1(track, pcm) | {"turn_taking.json": taken}


def user_interruption(number: int, data: Path) -> Files:
    track, rng = _begun(3, number)
    context = [
        _digit(track, rng, data, float(rng.uniform(0, 0.2)) if at else 0.0) for at in range(DIGITS_IN_STRING)
    ]
    until_s = track.now_s + 0.2
    more = [
        _digit(track, rng, data, float(rng.uniform(*((0, 0.2) if at else (1.9, 2.6))))) for at in range(3)
    ]
    pcm = track.pcm(3.0 + READ_BACK_S * (DIGITS_IN_STRING + 3))
    first, last = more[0].start_s, more[-1].end_s
    told = {"context": _text(context), "interrupt": _text(more), "timestamp": [first, last]}
    return _version_1(track, pcm) | {
        "interrupt.json": [told],
        "context.wav": pcm[: round(until_s * MODEL_HZ)],
        "interrupt.wav": pcm[round((first - 0.1) * MODEL_HZ) : round((last + 0.1) * MODEL_HZ)],
    }


def backchannel(number: int, data: Path) -> Files:
    people = list(corpus.background_speech(Part.TEST, data))
    track, rng = _begun(4, number)
    spoken = _piece(people, rng, BACKCHANNEL_S)
    track.sound(spoken, track.now_s)
    track.now_s += len(spoken) / MODEL_HZ
    return {"input.wav": track.pcm(0.4)}


def stop(number: int, data: Path) -> Files:
    return _overlapped(number, 5, ("stop",), 1.0, data)


def yes(number: int, data: Path) -> Files:
    return _overlapped(number, 6, ("yes",), 0.7, data)


def to_others(number: int, data: Path) -> Files:
    words = tuple(map(str, np.random.default_rng([7, number]).choice(OTHERS, 2, replace=False)))
    return _overlapped(number, 7, words, 0.5, data)


def background(number: int, data: Path) -> Files:
    return _overlapped(number, 8, (), 0.16, data)


def false_start(number: int, data: Path) -> Files:
    """The first two digits, a pause, and all from the beginning."""
    track, rng = _begun(9, number)
    begun = [one_of(data, rng, DIGITS[int(digit)]) for digit in rng.integers(0, 10, 2)]
    for at, clip in enumerate(begun):
        track.say(clip, 0.2 * at)
    for at, clip in enumerate(begun):
        track.say(clip, 0.2 if at else float(rng.uniform(0.5, 0.9)))
    for _ in range(3):
        _digit(track, rng, data, float(rng.uniform(0.1, 0.3)))
    told = {
        "id": f"digits_{number}", "title": "Digits with a false start", "domain": "digits", "difficulty": "easy",
        "disfluency_features": ["FALSE_START"], "state_rollback_test": False, "expected_tool_calls": [],
    }  # fmt: skip
    return {"input.wav": track.pcm(0.2), "metadata.json": told}


SUBSETS: Mapping[str, Callable[[int, Path], Files]] = {
    "v1_0/digits_pause_handling": pause_handling,
    "v1_0/digits_turn_taking": turn_taking,
    "v1_0/digits_user_interruption": user_interruption,
    "v1_0/digits_backchannel": backchannel,
    "v1_5/user_interruption": stop,
    "v1_5/user_backchannel": yes,
    "v1_5/talking_to_other": to_others,
    "v1_5/background_speech": background,
    "v3": false_start,
}


def make(folder: Path, subsets: Sequence[str], count: int, data: Path = DATA) -> int:
    """So many samples of each subset; how many that are. ValueError for a subset that there is not."""
    unknown = [name for name in subsets if name not in SUBSETS]
    if unknown:
        raise ValueError(f"subsets {unknown}: expected some of {', '.join(SUBSETS)}")
    for subset in subsets:
        for number in range(count):
            files = SUBSETS[subset](number, data) | {"persona.txt": PERSONA + "\n"}
            name = f"digits{number}_{_speaker(number)}" if subset == "v3" else str(number)
            _write(folder / subset / name, files, V3_HZ if subset == "v3" else MODEL_HZ)
    return len(subsets) * count


def _begun(kind: int, number: int) -> tuple[Track, np.random.Generator]:
    rng = np.random.default_rng([20, kind, number])
    return Track(rng, 0.6 + PHASES_S[number % len(PHASES_S)]), rng


def _digit(track: Track, rng: np.random.Generator, data: Path, pause_s: float) -> Word:
    return track.say(one_of(data, rng, DIGITS[int(rng.integers(10))]), pause_s)


def _overlapped(number: int, kind: int, words: Sequence[str], gain: float, data: Path) -> Files:
    """Eight digits, and something while they are said back; the same without it beside it."""
    sounds: dict[str, PCM] = {}
    event_s = (0.0, 0.0)
    texts: tuple[str, str] = ("", "")
    for name in ("clean_input.wav", "input.wav"):
        track, rng = _begun(kind, number)
        context = [
            _digit(track, rng, data, float(rng.uniform(0, 0.2)) if at else 0.0)
            for at in range(DIGITS_IN_LONG)
        ]
        until_s = track.now_s
        begin_s = until_s + float(rng.uniform(1.6, 2.6))
        if name == "input.wav":
            own = copy.deepcopy(rng)  # what is said here moves nothing that both inputs have
            pieces = [one_of(data, own, word) for word in words]
            at_s = begin_s
            for clip in pieces:
                first, last = clip.words[0].start_samples, clip.words[-1].end_samples
                rms = float(np.sqrt(np.mean(clip.pcm[first:last].astype(np.float32) ** 2))) + 1.0
                track.sound(
                    clip.pcm.astype(np.float32) * np.float32(gain * SPEECH_RMS / rms), at_s - first / MODEL_HZ
                )
                at_s += (last - first) / MODEL_HZ + 0.15
            if not words:
                spoken = _piece(list(corpus.background_speech(Part.TEST, data)), own, 1.5) * np.float32(gain)
                track.sound(spoken, at_s)
                at_s += len(spoken) / MODEL_HZ + 0.15
            event_s = begin_s, at_s - 0.15
            texts = _text(context), " ".join(words) or "somebody in the background"
        sounds[name] = track.pcm(3.0 + READ_BACK_S * DIGITS_IN_LONG)
    return sounds | {
        "metadata.json": {
            "context_text": texts[0],
            "current_turn_text": texts[1],
            "timestamps": [round(at, 3) for at in event_s],
        }
    }


def _piece(
    people: Sequence[PCM], rng: np.random.Generator, seconds: float
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of somebody who speaks, at the level of speech, faded in and out."""
    whole = people[int(rng.integers(len(people)))].astype(np.float32)
    count = min(len(whole), round(seconds * MODEL_HZ))
    start = int(rng.integers(max(1, len(whole) - count)))
    piece = whole[start : start + count]
    ramp = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / 400).astype(np.float32)
    out: np.ndarray[Any, np.dtype[np.float32]] = (
        piece * ramp * (SPEECH_RMS / (np.sqrt(np.mean(piece**2)) + 1.0))
    )
    return out.astype(np.float32)


def _version_1(track: Track, pcm: PCM) -> Files:
    item = [{"text": word.label, "timestamp": [word.start_s, word.end_s]} for word in track.words]
    return {"input.wav": pcm, "transcription.json": [{"speaker": 1, "item": item}]}


def _annotated(text: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
    return [{"text": text, "timestamp": [start_s, end_s]}]


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.label for word in words)


def _speaker(number: int) -> str:
    """24 hexadecimal digits, as folders of version 3 end with."""
    return hashlib.sha256(f"digits-bench {number}".encode()).hexdigest()[:24]


def _write(folder: Path, files: Files, rate_hz: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if isinstance(content, np.ndarray):
            pcm = content if rate_hz == MODEL_HZ else soxr.resample(content, MODEL_HZ, rate_hz)
            soundfile.write(path, pcm, rate_hz, subtype="PCM_16")
        elif isinstance(content, str):
            path.write_text(content)
        else:
            path.write_text(json.dumps(content, indent=4))


def main(argv: Sequence[str]) -> int:
    """0; 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m model_server.training.digits_bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subsets", nargs="+", default=list(SUBSETS), help="default: all of them")
    parser.add_argument("--count", type=int, default=COUNT, help="samples of each (%(default)s)")
    parser.add_argument("--data", type=Path, default=DATA)
    asked = parser.parse_args(argv)
    try:
        made = make(asked.folder, asked.subsets, asked.count, asked.data)
    except (ValueError, OSError) as wrong:
        print(f"digits_bench: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps({"folder": str(asked.folder), "samples": made}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
