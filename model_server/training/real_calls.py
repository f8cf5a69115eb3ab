"""Cases over real SIP calls: a gateway of our own with this engine, called by `loadtests.dialogues`.

That is a process of its own, since the model server's package knows no gateway. One gateway for each persona: what
a call is to be is the model server's setting.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from media.timebase import MODEL_HZ
from model_server.training import corpus
from model_server.training.cases import Case
from model_server.training.clip import PCM
from model_server.training.rehearsal import Heard

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800.0
TURNS = ("total", "missed", "late")


def call(
    cases: Sequence[Case], checkpoint: Path, at_once: int, realtime: bool
) -> tuple[list[Heard], dict[str, Any]]:
    """What callers heard, `turns` of the gateways and calls `refused`; `RuntimeError` when none was answered."""
    heard: list[Heard] = []
    statuses: list[int] = []
    turns = dict.fromkeys(TURNS, 0)
    settings = {"model_checkpoint": str(checkpoint.resolve()), "model_realtime_priority": str(realtime)}
    for persona in dict.fromkeys(case.persona for case in cases):
        of = [case for case in cases if case.persona == persona]
        print(f"{len(of)} calls, persona {persona!r}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="microturn-evaluation-") as folder:
            result = _call(of, {**settings, "model_persona": persona}, at_once, Path(folder))
            for case, done in zip(of, result["calls"], strict=True):
                statuses.append(done["status"])
                if done["record"]:
                    pcm = corpus.load(Path(done["record"]))
                    heard.append(Heard(case, _as_long(pcm, len(case.caller))))
        for name in TURNS:
            turns[name] += result["turns"][name]
    if not heard:
        raise RuntimeError(f"no call was answered: SIP status {sorted(set(statuses))}")
    return heard, {"turns": turns, "calls": len(statuses), "refused": len(statuses) - len(heard)}


def _call(cases: Sequence[Case], settings: dict[str, str], at_once: int, folder: Path) -> dict[str, Any]:
    calls = []
    for number, case in enumerate(cases):
        play = folder / f"{number}.wav"
        soundfile.write(play, case.caller, MODEL_HZ, subtype="PCM_16")
        calls.append({"play": str(play), "record": str(folder / f"{number}-heard.wav")})
    plan = folder / "plan.json"
    plan.write_text(
        json.dumps({"engine": "digits", "settings": settings, "at_once": at_once, "calls": calls})
    )
    command = [sys.executable, "-m", "loadtests.dialogues", str(plan)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    if not done.stdout.strip():
        raise RuntimeError(f"no calls could be made:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _as_long(pcm: PCM, count: int) -> PCM:
    return np.pad(pcm, (0, max(0, count - len(pcm))))[:count]
