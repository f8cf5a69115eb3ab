"""Cases over real calls, by telephone or as browsers: a gateway of our own with this engine, called by
`loadtests.dialogues`, a process of its own, since the model server's package knows no gateway.
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

from media.timebase import MODEL_HZ, TURN_MS
from model_server.training import corpus
from model_server.training.cases import Case
from model_server.training.channel import Codec
from model_server.training.clip import PCM
from model_server.training.rehearsal import Heard

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800.0
NAMES = {Codec.MULAW: "PCMU", Codec.ALAW: "PCMA", Codec.OPUS: "opus"}
"""As `loadtests.dialogues` calls them."""


def call(
    cases: Sequence[Case], checkpoint: Path, at_once: int, realtime: bool, codec: Codec = Codec.MULAW
) -> tuple[list[Heard], dict[str, Any]]:
    """What callers heard, `turns` of the gateway and calls `refused`; `RuntimeError` when none was answered."""
    heard: list[Heard] = []
    settings = {"model_checkpoint": str(checkpoint.resolve()), "model_realtime_priority": str(realtime)}
    with tempfile.TemporaryDirectory(prefix="microturn-evaluation-") as folder:
        result = _call(cases, settings, at_once, NAMES[codec], Path(folder))
        for case, done in zip(cases, result["calls"], strict=True):
            if done["record"]:
                pcm = corpus.load(Path(done["record"]))
                heard.append(Heard(case, _as_long(pcm, len(case.caller))))
    if not heard:
        raise RuntimeError(f"no call was answered: status {sorted({c['status'] for c in result['calls']})}")
    return heard, {"turns": result["turns"], "calls": len(cases), "refused": len(cases) - len(heard)}


def _call(
    cases: Sequence[Case], settings: dict[str, str], at_once: int, codec: str, folder: Path
) -> dict[str, Any]:
    calls = []
    for number, case in enumerate(cases):
        play = folder / f"{number}.wav"
        soundfile.write(play, case.caller, MODEL_HZ, subtype="PCM_16")
        record = folder / f"{number}-heard.wav"
        planned: dict[str, Any] = {"play": str(play), "record": str(record), "persona": case.persona}
        if case.pictures is not None:
            planned["camera"] = str(folder / f"{number}.npy")
            turns = range(len(case.pictures.scenes))
            np.save(planned["camera"], np.stack([case.pictures.picture(turn) for turn in turns]))
        if case.typed:
            planned["typed"] = [(turn * TURN_MS / 1000, line) for turn, line in case.typed.items()]
        calls.append(planned)
    plan = folder / "plan.json"
    told = {"engine": "digits", "settings": settings, "at_once": at_once, "codec": codec, "calls": calls}
    plan.write_text(json.dumps(told))
    command = [sys.executable, "-m", "loadtests.dialogues", str(plan)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    if not done.stdout.strip():
        raise RuntimeError(f"no calls could be made:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _as_long(pcm: PCM, count: int) -> PCM:
    return np.pad(pcm, (0, max(0, count - len(pcm))))[:count]
