"""Keys pressed and a call put on hold: facts that the model is told, whichever way the phone says them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gateway.caller.codec import find_codec
from loadtests.gateway_under_test import GatewayUnderTest
from tests.support.raw_call import RawCall
from tests.support.table_watch import TableWatch

pytestmark = pytest.mark.processes

WAIT_S = 5.0


@pytest.fixture
def watch(gateway: GatewayUnderTest) -> Iterator[TableWatch]:
    with TableWatch(gateway.run_dir / "model.sock") as opened:
        yield opened


def digits(lines: list[str]) -> str:
    return "".join(line.removeprefix("dtmf ") for line in lines if line.startswith("dtmf "))


@pytest.mark.parametrize("way", ["rfc4733", "application/dtmf-relay", "application/dtmf"])
def test_digits_reach_the_engine_in_order(gateway: GatewayUnderTest, watch: TableWatch, way: str) -> None:
    with RawCall(gateway.uri) as call:
        call.talk(0.5)
        for digit in "15*#":
            if way == "rfc4733":
                call.press(digit)
            elif way == "application/dtmf-relay":
                assert call.info(way, f"Signal={digit}\r\nDuration=160\r\n".encode()) == 200
            else:
                assert call.info(way, digit.encode()) == 200
            watch.look()
            call.talk(0.1)
        watch.look_until(lambda seen: len(digits(seen.said)) >= 4, lambda: call.talk(0.1), WAIT_S)
        assert digits(watch.heard) == "15*#"
        assert digits(watch.said) == "15*#", "the echo engine says what it heard"
        assert call.bye() == 200


BAD_LINES = {
    "no marker": [1, 2, 3, 4, 5, 6, 7],
    "its beginning lost": [4, 5, 6, 7],
    "its end lost": [1, 2, 3],
    "every second one lost": [1, 3, 5, 7],
    "doubled": [1, 1, 2, 2, 3, 4, 5, 5, 6, 7, 7],
    "overtaken": [2, 1, 4, 3, 6, 5, 7],
}
ONLY_ENDS = "nothing but its end"


@pytest.mark.parametrize(
    "line",
    [
        *BAD_LINES,
        pytest.param(
            ONLY_ENDS,
            marks=pytest.mark.xfail(
                strict=True,
                reason="pjmedia takes the end of a second press of the same key, as long as the first and all that "
                "arrives of it, for the first one's end said again, and tells nobody",
            ),
        ),
    ],
)
def test_a_press_is_heard_once_over_a_bad_line(
    gateway: GatewayUnderTest, watch: TableWatch, line: str
) -> None:
    with RawCall(gateway.uri) as call:
        call.talk(0.3)
        for digit in "7755":
            call.press_over(digit, BAD_LINES.get(line, [5, 6, 7]))
            watch.look()
        call.talk(0.5)
        watch.look()
        assert digits(watch.heard) == "7755"


def test_music_on_hold_is_not_heard_and_nothing_is_said(gateway: GatewayUnderTest, watch: TableWatch) -> None:
    loud = bytes([0x80, 0x00] * 80)  # the loudest that mu-law has
    with RawCall(gateway.uri) as call:
        call.talk(0.6, loud)
        watch.look()
        assert max(int(np.abs(pcm).max()) for _, pcm in watch.sound) > 20_000
        assert call.negotiate("sendonly") == 200
        call.talk(0.6, loud)  # what was under way
        watch.look()
        watch.sound.clear()
        assert call.talk(1.0, loud) == 0
        watch.look()
        assert len(watch.sound) >= 4 and not any(pcm.any() for _, pcm in watch.sound)
        assert call.negotiate("sendrecv") == 200
        watch.look_until(lambda seen: "resume" in seen.heard, lambda: call.talk(0.1, loud), WAIT_S)
        assert call.talk(1.0, loud) > 40
        watch.look()
        assert int(np.abs(watch.sound[-1][1]).max()) > 20_000


def test_a_codec_that_changes_within_the_call_is_heard(gateway: GatewayUnderTest, watch: TableWatch) -> None:
    time_s = np.arange(160) / 8000
    tone = (8000 * np.sin(2 * np.pi * 500 * time_s)).astype(np.int16)  # ten periods a frame
    with RawCall(gateway.uri) as call:
        for name, number in (("PCMU", 0), ("PCMA", 8), ("PCMU", 0)):
            assert call.negotiate("sendrecv", name, number) == 200
            assert call.audio is not None and next(iter(call.audio.codecs)) == number
            call.talk(0.6, find_codec(name).encode(tone))
            watch.look()
            watch.sound.clear()
            assert call.talk(0.8, find_codec(name).encode(tone)) > 30
            watch.look()
            heard = np.concatenate([pcm for _, pcm in watch.sound][-2:]).astype(np.float64)
            spectrum = np.abs(np.fft.rfft(heard))
            loudest = int(np.argmax(spectrum)) * 16_000 / len(heard)
            assert abs(loudest - 500) < 10 and 5_000 < np.sqrt(2 * np.mean(heard**2)) < 9_000, name
        assert call.negotiate("sendrecv", "GSM", 3) == 488
        assert call.talk(0.3) > 8 and call.bye() == 200


def test_hold_silences_the_gateway_and_resume_brings_it_back(
    gateway: GatewayUnderTest, watch: TableWatch
) -> None:
    with RawCall(gateway.uri) as call:
        assert call.talk(1.0) > 40
        assert call.negotiate("sendonly") == 200
        assert call.audio is not None and call.audio.direction == "recvonly"
        assert watch.look_until(lambda seen: "hold" in seen.heard, lambda: call.talk(0.1), WAIT_S)
        call.talk(0.3)  # what was under way
        assert call.talk(1.0) == 0, "held callers get no RTP (RFC 3264 section 8.4)"
        assert call.negotiate("sendrecv") == 200
        assert call.audio is not None and call.audio.direction == "sendrecv"
        assert watch.look_until(lambda seen: "resume" in seen.heard, lambda: call.talk(0.1), WAIT_S)
        assert call.talk(1.0) > 40
        assert call.bye() == 200
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
