"""Recordings on the clock of what was played."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from gateway.caller.analysis import ReceivedAudio
from loadtests.dialogues import LEAD_IN_S, Plan, main, synchronous
from loadtests.webrtc_media import make_clip_of

RATE = 8000
PACKET = 160
MS = 1_000_000


def sent(seconds: float) -> np.ndarray:
    """Packets of a call that leave every 20 ms from 1 s on."""
    return np.arange(1_000 * MS, round((1.0 + seconds) * 1000) * MS, 20 * MS)


def received(pcm: np.ndarray, arrivals_ns: list[int]) -> ReceivedAudio:
    count = len(arrivals_ns)
    return ReceivedAudio(
        pcm=pcm, rate_hz=RATE,
        start=np.arange(count) * PACKET, size=np.full(count, PACKET), arrival_ns=np.array(arrivals_ns),
        packets=count, lost=0, duplicates=0, reordered=0, other=0, jitter_ms=0.0, longest_silence_ms=20.0,
    )  # fmt: skip


def test_what_came_back_at_once_lies_where_it_was_played():
    pcm = np.zeros(200 * PACKET, np.int16)
    click = round((LEAD_IN_S + 0.5) * RATE)
    pcm[click] = 9000
    arrivals = [1_000 * MS + 20 * MS * n + (3 * MS if n % 7 == 0 else 0) for n in range(200)]
    out = synchronous(received(pcm, arrivals), sent(3.0), 20, 2.0)
    assert len(out) == 2 * RATE
    assert np.flatnonzero(out).tolist() == [RATE // 2]


def test_what_came_later_lies_later():
    pcm = np.zeros(200 * PACKET, np.int16)
    pcm[0] = 9000
    arrivals = [round((1.0 + LEAD_IN_S + 0.25) * 1000) * MS + 20 * MS * n for n in range(200)]
    out = synchronous(received(pcm, arrivals), sent(3.0), 20, 2.0)
    assert np.flatnonzero(out).tolist() == [RATE // 4]


@pytest.mark.parametrize("text", ["{", "{}", json.dumps({"engine": "echo", "calls": []})])
def test_a_plan_that_is_none_is_refused(tmp_path, capsys, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_plan_has_its_defaults():
    plan = Plan.of(json.dumps({"engine": "digits", "calls": [{"play": "a", "record": "b"}]}))
    assert (plan.at_once, plan.codec, plan.settings) == (4, "PCMU", {})


def test_whoever_names_a_persona_calls_its_number():
    calls = [
        {"play": "a", "record": "b", "persona": persona} for persona in ("", "count", "every 5", "count")
    ]
    plan = Plan.of(json.dumps({"engine": "digits", "calls": calls, "at_once": 3}))
    assert plan.numbers == {"100": "count", "101": "every 5"}
    assert plan.called() == ["", "100", "101", "100"]
    assert plan.groups() == [range(0, 3), range(3, 4)]


@pytest.mark.processes
@pytest.mark.parametrize("codec", [pytest.param("PCMU", marks=pytest.mark.long), "opus"])
@pytest.mark.long
def test_what_an_echo_answers_lies_a_turn_after_what_was_played(tmp_path, codec, capsys):
    """By telephone and as a browser: a click at 1 s is heard 0.2 s and a floor later."""
    pcm = np.zeros(2 * 16_000, np.int16)
    pcm[16_000:16_800] = (9000 * np.sin(2 * np.pi * 500 * np.arange(800) / 16_000)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 16_000)
    calls = [{"play": str(tmp_path / "a.wav"), "record": str(tmp_path / "b.wav"), "persona": "count"}]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"engine": "echo", "codec": codec, "calls": calls}))
    assert main([str(plan)]) == 0
    heard, rate = soundfile.read(tmp_path / "b.wav", dtype="int16")
    assert len(heard) == 2 * rate
    (call,) = json.loads(capsys.readouterr().out.splitlines()[-1])["calls"]
    assert [message["type"] for _, message in call["told"]][:1] == (["hello"] if codec == "opus" else [])
    loud = np.flatnonzero(np.abs(heard) > 3000) / rate
    assert 1.2 < loud[0] < 1.4 and loud[-1] - loud[0] < 0.1


def test_a_browser_shows_and_types_and_a_telephone_does_not():
    call = {"play": "a", "record": "b", "camera": "a.npy", "typed": [[1.5, "seven"]]}
    plan = Plan.of(json.dumps({"engine": "digits", "codec": "opus", "calls": [call]}))
    assert (plan.calls[0].camera, plan.calls[0].typed) == (Path("a.npy"), ((1.5, "seven"),))
    with pytest.raises(ValueError, match="codec PCMU: a telephone neither shows nor types; opus does"):
        Plan.of(json.dumps({"engine": "digits", "codec": "PCMU", "calls": [call]}))


def test_a_film_of_pictures_shows_each_for_a_turn_and_holds_the_last():
    shades = (30, 220, 120)
    pictures = np.stack([np.full((120, 160, 3), shade, np.uint8) for shade in shades])
    clip = make_clip_of(pictures, picture_ms=200, hold_s=0.4)
    decoder = av.CodecContext.create("vp8", "r")
    seen = [
        float(frame.to_ndarray(format="gray").mean())
        for pieces in clip.frames
        for frame in decoder.decode(av.Packet(b"".join(pieces)))
    ]
    wanted = [30] * 3 + [220] * 3 + [120] * 9
    assert len(seen) == len(wanted) and np.allclose(seen, wanted, atol=12)
