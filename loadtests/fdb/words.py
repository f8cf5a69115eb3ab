"""Words and their times, in the shape of the benchmark's recognition step: where they come from.

reader      read off the sound by the reader that knows our voice (`model_server.training.transcribe`, a process of
            its own): for the shipped model, on every leg
captions    the model's own text, which a browser is told when its sound is played: any engine, browsers only
none        nothing is written: a recogniser of your own does it afterwards, such as `get_transcript/asr.py`
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.fdb.layout import Word
from loadtests.fdb.scores import Stretch

SOURCES = ("reader", "captions", "none")
LEAST_S = 0.06
TIMEOUT_S = 600.0
ROOT = Path(__file__).resolve().parents[2]


def of_captions(
    told: Iterable[tuple[float, Mapping[str, Any]]], speech: Sequence[Stretch], seconds: float
) -> list[Word]:
    """Captions are pieces of text whose blanks count. A word begins where the piece that has its first letter was
    told, and ends where the next one begins or the sound does, whichever comes first. What was told when the
    recording of so many seconds was over is not in it."""
    begun: list[tuple[float, str]] = []
    open_word = False
    for at_s, message in told:
        if message.get("type") != "caption" or at_s >= seconds:
            continue
        for letter in str(message["text"]):
            if letter.isspace():
                open_word = False
            elif open_word:
                begun[-1] = begun[-1][0], begun[-1][1] + letter
            else:
                begun.append((max(0.0, at_s), letter))
                open_word = True
    words = []
    for (at_s, text), (next_s, _) in itertools.pairwise([*begun, (float("inf"), "")]):
        sound_s = next((end_s for _, end_s in speech if end_s > at_s + LEAST_S), at_s + LEAST_S)
        end_s = max(at_s + LEAST_S, min(next_s, sound_s)) if next_s > at_s else at_s
        words.append(Word(text, round(at_s, 3), round(end_s, 3)))
    return words


def of_our_voice(sounds: Sequence[Path]) -> list[list[Word]]:
    """Of each file. RuntimeError when the reader does not run (it needs the extra `torch` no more than numpy)."""
    done = subprocess.run(
        [sys.executable, "-m", "model_server.training.transcribe"],
        input="\n".join(map(str, sounds)), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the reader of our voice failed:\n{done.stderr[-2000:]}")
    return [[Word(*word) for word in json.loads(line)] for line in done.stdout.splitlines()]
