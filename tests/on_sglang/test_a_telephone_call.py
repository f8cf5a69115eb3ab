"""A telephone calls a gateway whose model server is SGLang's: the model says the digits back."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import soxr

from gateway.caller.command import run_call
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from media.timebase import MODEL_HZ
from model_server.training import cases
from model_server.training.mouth import table_of
from model_server.training.reading import Reader
from model_server.training.voice_table import load_voice
from tests.support.sglang_here import needs_sglang

pytestmark = [needs_sglang, pytest.mark.processes]

WAIT_S = 3.0
READY_S = 240.0
TRIES = 3
"""Of three single digits over G.711 one at least is to be right; the third is not answered by the engine `digits`
either."""


def test_digits_come_back_over_sip(tmp_path: Path, data: Path) -> None:
    chosen = cases.of(["isolated"], TRIES, data)
    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    settings = {"slots": "2", "webrtc_calls": "0", "persona": chosen[0].persona, "spare_model_server": "off"}
    wish = GatewayWish(2, "sglang", settings=settings, ready_timeout_s=READY_S)
    right = 0
    with GatewayUnderTest.start(wish) as gateway:
        for number, case in enumerate(chosen):
            play, record = tmp_path / f"{number}.wav", tmp_path / f"{number}-heard.wav"
            soundfile.write(play, case.caller, MODEL_HZ, subtype="PCM_16")
            run_call(gateway.uri, play, record, None, WAIT_S, "PCMU", False)
            heard, rate_hz = soundfile.read(record, dtype="int16")
            heard = soxr.resample(heard, rate_hz, MODEL_HZ)
            said = [spoken.word for spoken in reader.read(heard)]
            print(case.name, case.expected, said)
            right += list(case.expected) == said
        gateway.wait_for(lambda found: found["microturn_model_sglang_sessions_opened_total"] >= TRIES)
        gateway.wait_for(lambda found: found["microturn_model_sglang_tokens_held"] == 0)
        figures = gateway.metrics()
    assert figures["microturn_model_sglang_turns_unanswered_total"] == 0
    assert figures["microturn_model_sglang_tokens_limit"] > 0
    assert right, "no call of these was read back right"
