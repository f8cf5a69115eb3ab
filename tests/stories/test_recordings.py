"""Recordings of real calls: what each side heard, sample by sample, over a line that loses; a worker that dies."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.codec import find_codec
from gateway.recording.finish import decrypt
from gateway.recording.keys import Keyring
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.stories.test_webrtc_calls import chirps
from tests.support.lossy_caller import lossy_caller
from tests.support.raw_call import RawCall
from tests.support.webrtc_caller import calling

pytestmark = pytest.mark.processes

SECRET = "hGUNxVVHBBlxbQJ6H5k7rpGsmzdMBNBcs7ZQsBIiwxE="
RATE, FRAME, TURN = 8_000, 160, 1_600
LOSS = 0.05


def settings(folder: Path) -> dict[str, str]:
    return {
        "rules": json.dumps([{"called": "100", "recording": True}]),
        "recording_dir": str(folder),
        "recording_key": SECRET,
    }


def call(gateway: GatewayUnderTest, seconds: float, caller: type[Caller] = Caller) -> CallLog:
    said = np.random.default_rng(2).integers(-6_000, 6_000, int(seconds * RATE)).astype(np.int16)
    plan = CallPlan(gateway.uri.replace("sip:", "sip:100@"), "PCMU", said, RATE, seconds)

    async def place() -> CallLog:
        async with caller() as placing:
            return await placing.place(plan)

    return asyncio.run(place())


def done(gateway: GatewayUnderTest, folder: Path) -> np.ndarray:
    """The one recording, when the keeper has finished it, int16 [n, 2]."""
    gateway.wait_for(lambda m: m["microturn_recordings_kept_finished_total"] == 1, 15.0)
    (path,) = (folder / "done").glob("*.wav.mtr")
    decrypt(path, folder / "out.wav", Keyring(SECRET))
    sound, rate_hz = soundfile.read(folder / "out.wav", dtype="int16")
    assert rate_hz == RATE and not list((folder / "live").iterdir())
    return np.asarray(sound)


def lag_of(sound: np.ndarray, window: np.ndarray, most: int) -> int:
    """Where in `sound` the window lies."""
    size = 1 << int(np.ceil(np.log2(most + len(window))))
    spectrum = np.fft.rfft(sound[: most + len(window)].astype(float), size)
    found = np.fft.irfft(spectrum * np.conj(np.fft.rfft(window.astype(float), size)), size)
    return int(np.argmax(found[:most]))


def test_a_recording_under_loss_is_what_each_side_heard(tmp_path: Path) -> None:
    with GatewayUnderTest.start(GatewayWish(calls=2, settings=settings(tmp_path))) as gateway:
        log = call(gateway, 6.0, lossy_caller(LOSS, seed=4))
        gateway.wait_for(lambda m: m["microturn_recordings_ended_total"] == 1, 5.0)
        left, right = done(gateway, tmp_path).T
        metrics = gateway.metrics()
    assert log.answered
    assert metrics["microturn_recordings_dropped_seconds_total"] == 0
    assert metrics["microturn_recordings_heard_late_seconds_total"] == 0

    # right: every packet that the caller got, in one place of the recording. Of the library's mu-law some codes are
    # their neighbours in ours, where a sample lies between two.
    codec = find_codec("PCMU")
    payload = np.frombuffer(b"".join(d[12:] for d in log.datagrams if not d[1] & 0x7F), np.uint8)
    place = lag_of(codec.decode(payload.tobytes()), right[5 * TURN : 6 * TURN], 10 * TURN) - 5 * TURN
    got = payload[max(0, place) :]
    want = right[max(0, -place) :][: len(got)]
    codes = [
        np.frombuffer(codec.encode((want.astype(int) + off).clip(-32_768, 32_767).astype(np.int16)), np.uint8)
        for off in (-4, 0, 4)
    ]
    assert len(want) > 4 * RATE
    assert np.all(np.any([got[: len(want)] == code for code in codes], axis=0))

    # left: what was sent, where it was not lost, always in the same place
    sent = log.sent_pcm
    places = {}
    for begin in range(2 * RATE, 5 * RATE, FRAME * 25):
        places[begin] = lag_of(left[begin - 2 * TURN :], sent[begin : begin + 3 * TURN], 4 * TURN)
    common = max(set(places.values()), key=list(places.values()).count)
    assert sum(place == common for place in places.values()) >= 0.75 * len(places), places

    # both on one clock: the model is an echo, so the right is the left of a moment ago, all the time as long
    lags = [
        lag_of(right[begin:], left[begin : begin + 2 * TURN], 4 * TURN)
        for begin in range(RATE, 4 * RATE, TURN)
    ]
    common = max(set(lags), key=lags.count)
    assert lags.count(common) >= 0.9 * len(lags), lags
    lost = 1 - sum(log.audio_sent) / len(log.audio_sent)
    assert 0.02 < lost < 0.09


@pytest.mark.long
def test_kill_9_of_the_worker_loses_less_than_a_second(tmp_path: Path) -> None:
    wish = GatewayWish(calls=2, settings=settings(tmp_path) | {"disclosure": "on"})
    with GatewayUnderTest.start(wish) as gateway:

        async def story() -> None:
            plan = CallPlan(
                gateway.uri.replace("sip:", "sip:100@"), "PCMU", np.zeros(100, np.int16), RATE, 20.0
            )
            async with Caller() as caller:
                calling = asyncio.create_task(caller.place(plan))
                await asyncio.to_thread(
                    gateway.wait_for, lambda m: m["microturn_recordings_begun_total"] == 1, 15.0
                )
                await asyncio.sleep(2.9)
                gateway.workers()[0].kill()
                calling.cancel()
                await asyncio.gather(calling, return_exceptions=True)

        asyncio.run(story())
        kept_s = len(done(gateway, tmp_path)) / RATE
        metrics = gateway.metrics()
    assert kept_s > 2.9 - 1.0, kept_s
    assert metrics["microturn_recordings_kept_repaired_total"] == 1
    assert metrics["microturn_announcements_heard_total"] == 1


@pytest.mark.long
def test_a_browser_calls_two_sides_stay_together_to_the_sample(tmp_path: Path) -> None:
    wish = GatewayWish(
        calls=1, settings=settings(tmp_path) | {"webrtc_calls": "2", "recording_encryption": "off"}
    )

    async def story(base: str) -> str:
        async with calling(base, chirps(6), called="100") as caller:
            await asyncio.sleep(5.0)
            return caller.url.rpartition("/")[2]

    with GatewayUnderTest.start(wish) as gateway:
        call_name = asyncio.run(story(gateway.http))
        gateway.wait_for(lambda m: m["microturn_recordings_kept_finished_total"] == 1, 15.0)
    (path,) = (tmp_path / "done").iterdir()
    assert path.name.endswith(f"-{call_name}.wav")
    sound, rate_hz = soundfile.read(path, dtype="int16")
    assert rate_hz == 16_000 and len(sound) > 3.5 * rate_hz
    left, right = sound.T
    lag = lag_of(right[rate_hz:], left[rate_hz : rate_hz + 8_000], 16_000)
    assert 3_200 < lag < 8_000  # the turn, and when its echo is heard
    # the model is an echo and nothing is resampled: the right is the left of a moment ago, sample by sample
    same = left[rate_hz:-lag] == right[rate_hz + lag :]
    assert same.mean() > 0.9, same.mean()  # a turn that a busy machine missed is silence


@pytest.mark.long
def test_after_a_hold_the_two_sides_are_where_they_were(tmp_path: Path) -> None:
    rng = random.Random(6)

    def speak(raw: RawCall, seconds: float) -> None:
        for _ in range(round(seconds * 50)):
            raw.talk(0.02, rng.randbytes(FRAME))

    with GatewayUnderTest.start(GatewayWish(calls=2, settings=settings(tmp_path))) as gateway:
        with RawCall(gateway.uri.replace("sip:", "sip:100@")) as raw:
            speak(raw, 2.5)
            assert raw.negotiate("sendonly") == 200
            speak(raw, 1.5)
            assert raw.negotiate("sendrecv") == 200
            speak(raw, 3.0)
        left, right = done(gateway, tmp_path).T
        metrics = gateway.metrics()
    assert metrics["microturn_recordings_heard_late_seconds_total"] == 0
    assert len(left) > 6.5 * RATE
    lags = {
        place: lag_of(right[place:], left[place : place + 2 * TURN], 4 * TURN)
        for place in (RATE, round(1.4 * RATE), len(left) - 2 * RATE, len(left) - round(1.5 * RATE))
    }
    assert len(set(lags.values())) == 1, lags
    # of the hold the caller heard nothing
    quiet = [not np.abs(part).max() for part in right[: len(right) // FRAME * FRAME].reshape(-1, FRAME)]
    assert 1.2 * 50 < sum(quiet[100:300]) < 2.2 * 50
