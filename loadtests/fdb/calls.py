"""Samples through real calls: what is played, and the answer beside it on the same clock.

    input.wav, and silence after it where asked -> a SIP or WebRTC call -> output.wav, as long, 16 kHz

Knows `loadtests.dialogues`, which makes the calls; nothing of how they are judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from gateway.caller.command import read_audio
from loadtests import dialogues
from loadtests.fdb.layout import Sample, Version
from media.timebase import MODEL_HZ

CODECS = {"sip": "PCMU", "webrtc": dialogues.BROWSER}
TAIL_S = {Version.V1: 0.0, Version.V15: 0.0, Version.V3: 15.0}
"""Silence behind a sound. The inputs of versions 1 and 1.5 have their own, those of 3 end with the question."""
PERSONA = "persona.txt"
"""Beside a sample of our own: what the model is to be. The published ones have none."""


@dataclass(frozen=True, slots=True)
class Played:
    """One call of one sample."""

    sample: Sample
    output: str
    """The answer's file; "" of a call that was not answered."""
    status: int
    told: tuple[tuple[float, Mapping[str, Any]], ...]
    """What a browser's data channel brought, in seconds of the sound."""


@dataclass(frozen=True, slots=True)
class Line:
    """How samples are called."""

    leg: str
    engine: str
    persona: str
    settings: Mapping[str, str]
    at_once: int
    tail_s: float | None
    """None: as the version has it."""


def play(samples: Sequence[Sample], line: Line, folder: Path) -> tuple[list[Played], dict[str, int]]:
    """Every sound of every sample; and the gateway's turns. `folder` is for what lies about meanwhile.

    RuntimeError when the gateway does not come up.
    """
    calls: list[dialogues.Dialogue] = []
    planned: list[tuple[Sample, str]] = []
    for sample in samples:
        for sound, output in sample.sounds:
            number = len(calls)
            spoken, heard = folder / f"{number}.wav", folder / f"{number}-heard.wav"
            tail_s = TAIL_S[sample.version] if line.tail_s is None else line.tail_s
            _lengthen(sample.folder / sound, tail_s, spoken)
            calls.append(dialogues.Dialogue(spoken, heard, _persona(sample, line.persona)))
            planned.append((sample, output))
    plan = dialogues.Plan(line.engine, dict(line.settings), line.at_once, CODECS[line.leg], tuple(calls))
    done = dialogues.carry_out(plan)
    played = []
    for (sample, output), call, told in zip(planned, calls, done["calls"], strict=True):
        if told["record"]:
            write_output(sample.folder / output, *read_audio(call.record))
        played.append(
            Played(sample, output if told["record"] else "", told["status"], tuple(map(tuple, told["told"])))
        )
    return played, done["turns"]


def write_output(path: Path, pcm: NDArray[np.int16], rate_hz: int) -> None:
    """16 kHz, mono: `eval_backchannel.py` takes it for that without a look."""
    wide = pcm if rate_hz == MODEL_HZ else soxr.resample(pcm, rate_hz, MODEL_HZ)
    soundfile.write(path, wide, MODEL_HZ, subtype="PCM_16")


def _lengthen(path: Path, tail_s: float, to: Path) -> None:
    pcm, rate_hz = read_audio(path)
    soundfile.write(to, np.pad(pcm, (0, round(tail_s * rate_hz))), rate_hz, subtype="PCM_16")


def _persona(sample: Sample, given: str) -> str:
    own = sample.folder / PERSONA
    return given or (own.read_text().strip() if own.is_file() else "")


def write_result(sample: Sample, result: Mapping[str, Any]) -> None:
    """Of a sample of version 3."""
    path = sample.folder / f"result_{sample.sounds[0][1].removeprefix('output_').removesuffix('.wav')}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False))
