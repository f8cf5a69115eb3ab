"""One gateway, one model, and a number for each thing that it is to be: by telephone and as a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loadtests.dialogues import main

pytest.importorskip("torch", reason="the trained model needs the extra 'torch'")
pytestmark = pytest.mark.processes

RATE = 16_000
SECONDS = 5
SOUND = 500
"""Of a voice; what a line of silence comes back as is far below it."""


@pytest.mark.parametrize("codec", ["PCMU", pytest.param("opus", marks=pytest.mark.long)])
@pytest.mark.long
def test_a_number_that_speaks_by_itself_beside_one_that_waits(tmp_path: Path, codec: str) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(SECONDS * RATE, np.int16), RATE)
    calls = [
        {"play": str(tmp_path / "silence.wav"), "record": str(tmp_path / f"{name}.wav"), "persona": persona}
        for name, persona in (("speaks", "every 2"), ("waits", ""))
    ]
    plan = tmp_path / "plan.json"
    settings = {"model_realtime_priority": "false"}
    plan.write_text(json.dumps({"engine": "digits", "codec": codec, "settings": settings, "calls": calls}))
    assert main([str(plan)]) == 0
    loudest = {
        name: int(np.abs(soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0].astype(np.int32)).max())
        for name in ("speaks", "waits")
    }
    assert loudest["speaks"] > 4 * SOUND and loudest["waits"] < SOUND


def test_a_persona_that_the_model_does_not_know_is_refused_in_words(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE, np.int16), RATE)
    call = {"play": str(tmp_path / "silence.wav"), "record": str(tmp_path / "none.wav"), "persona": "dance"}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"engine": "digits", "calls": [call]}))
    assert main([str(plan)]) == 1
    assert not (tmp_path / "none.wav").exists()
