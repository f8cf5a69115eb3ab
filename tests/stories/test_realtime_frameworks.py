"""LiveKit's plugin and Pipecat's service, as they come, talk to the shipped model by `/v1/realtime`.

They live in an environment of their own and are programs of their own: `tests/support/realtime_clients/`.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from loadtests.gateway_under_test import GatewayUnderTest
from media.chunk import PCM
from tests.stories.test_the_shipped_model_asks_for_help import DATA, MODEL_HZ, WORDS, questions
from tests.support.digits_gateway import digits_gateway

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers/bin/python"
PROGRAMS = ROOT / "tests/support/realtime_clients"
HZ = 24_000
TIMEOUT_S = 90
NAMES = ("livekit_plugin", "pipecat_service")
PACKAGES = {"livekit_plugin": "livekit/plugins/openai", "pipecat_service": "pipecat/services/openai"}

pytestmark = [pytest.mark.processes, pytest.mark.long]


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayUnderTest]:
    if not any(is_here(name) for name in NAMES):
        pytest.skip(MISSING)
    with digits_gateway(DATA, 1) as started:
        yield started


MISSING = "the clients are not in .venv-peers: make setup-peers"


def is_here(name: str) -> bool:
    return any(PYTHON.parents[1].glob(f"lib/python3*/site-packages/{PACKAGES[name]}"))


@pytest.fixture(params=NAMES)
def client(request: pytest.FixtureRequest) -> str:
    if not is_here(request.param):
        pytest.skip(MISSING)
    return str(request.param)


def seconds(count: float) -> PCM:
    return np.zeros(round(HZ * count), np.int16)


def call(gateway: GatewayUnderTest, client: str, speech: PCM, folder: Path, *more: str) -> dict[str, Any]:
    """What the client tells of a call in which the caller says that, int16 [n] at 24 kHz."""
    path = folder / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(HZ)
        file.writeframes(speech.tobytes())
    done = subprocess.run(
        [str(PYTHON), str(PROGRAMS / f"{client}.py"), gateway.http, str(path), *more],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(client, {name: value for name, value in told.items() if name != "newest_sound_s"})
    return told


def records(gateway: GatewayUnderTest) -> list[dict[str, Any]]:
    """Of calls that are over."""
    with urllib.request.urlopen(f"{gateway.http}/v1/cdrs", timeout=5) as answer:
        return [cdr for cdr in json.load(answer)["cdrs"] if cdr.get("ended_ms")]


def in_common(said: list[str], spoken: list[str]) -> int:
    """How many words of `spoken` were said, in their order: the longest common subsequence."""
    best = [0] * (len(spoken) + 1)
    for word in said:
        before = best[:]
        for at, wanted in enumerate(spoken):
            best[at + 1] = before[at] + 1 if word == wanted else max(before[at + 1], best[at])
    return best[-1]


def test_digits_are_said_back(gateway: GatewayUnderTest, client: str, tmp_path: Path) -> None:
    """Ten digits of a person's: words of both sides, sound, no error, and a record of the call."""
    before = len(records(gateway))
    pcm, hz = soundfile.read(DATA / "speech/connected_digits/sample_001.flac", dtype="int16")
    rows = (DATA / "speech/connected_digits/alignment_pocketsphinx.tsv").read_text().splitlines()
    spoken = [word for name, word, *_ in (row.split("\t") for row in rows) if name == "sample_001"]
    speech = np.concatenate((seconds(2), soxr.resample(pcm, hz, HZ), seconds(8)))
    told = call(gateway, client, speech, tmp_path, "--instructions", "persona: read-back")
    assert not told["errors"]
    said = "".join(told["said"]).split()
    assert in_common(said, spoken) >= 0.7 * len(spoken), (said, spoken)
    heard = [WORDS[int(word)] for word in " ".join(told["heard"]).split() if word.isdecimal()]
    assert in_common(heard, spoken) >= 0.7 * len(spoken), (heard, spoken)
    assert told["loud_s"] > 0.2 * len(said), told
    assert told["sound_s"] < len(speech) / HZ
    until_s = time.monotonic() + 10.0
    while len(records(gateway)) == before and time.monotonic() < until_s:
        time.sleep(0.05)
    record = records(gateway)[0]
    assert len(records(gateway)) == before + 1
    assert record.items() >= {"door": "realtime", "cause": "caller"}.items(), record


def test_a_question_is_the_clients_function(gateway: GatewayUnderTest, client: str, tmp_path: Path) -> None:
    """The model asks, the client's own function adds, and the model says the sum."""
    asked = [(soxr.resample(question, MODEL_HZ, HZ), seconds(9)) for question in questions()]
    speech = np.concatenate((seconds(2), *(part for both in asked for part in both)))
    told = call(gateway, client, speech, tmp_path, "--function")
    assert not told["errors"]
    assert told["functions"], "".join(told["said"])
    assert told["answered"], told
