"""Turns of 200 ms and frames of 80 ms: nothing drifts, nothing is lost, and how late it is."""

from __future__ import annotations

import numpy as np
import pytest

from media.resample import Resampler
from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.engine.moshi.frames import FRAME_HZ, FRAME_SAMPLES, MOST_FRAMES, Frames, lead_of


def answers(pcm: np.ndarray, owed: int) -> tuple[np.ndarray, list[int]]:
    """By a model that says each frame `owed` frames after it heard it: all replies, and frames of each turn."""
    frames, kept, counts = Frames(owed), [], []
    replies = []
    for turn in pcm:
        frames.hear(turn)
        counts.append(frames.waiting)
        while frames.waiting:
            kept.append(frames.take())
            if len(kept) > owed:
                frames.speak(kept[-1 - owed])
        replies.append(frames.reply())
    return np.concatenate(replies), counts


def tone(turns: int) -> np.ndarray:
    at = np.arange(turns * TURN_SAMPLES) / MODEL_HZ
    return (
        np.rint(8000 * np.sin(2 * np.pi * (300 + 40 * at) * at)).astype(np.int16).reshape(turns, TURN_SAMPLES)
    )


@pytest.mark.parametrize("owed", (0, 1, 2))
def test_two_and_three_frames_in_turn_for_an_hour(owed: int) -> None:
    frames, made = Frames(owed), 0
    silence, frame = np.zeros(TURN_SAMPLES, np.int16), np.zeros(FRAME_SAMPLES, np.int16)
    for turn in range(18_000):
        frames.hear(silence)
        assert frames.waiting == (2 if turn % 2 == 0 else MOST_FRAMES)
        while frames.waiting:
            frames.take()
            made += 1
            if made > owed:
                frames.speak(frame)
        assert len(frames.reply()) == TURN_SAMPLES
    assert made * FRAME_SAMPLES * 2 == 18_000 * TURN_SAMPLES * 3  # 24 kHz to 16 kHz


@pytest.mark.parametrize("owed", (0, 1, 2))
def test_what_is_said_is_as_late_as_is_stated(owed: int) -> None:
    """46 ms beside what the model owes: half a frame, and 3 ms in each resampler."""
    heard = tone(20)
    said, _ = answers(heard, owed)
    late = Frames(owed).delay + owed * FRAME_SAMPLES * MODEL_HZ // FRAME_HZ
    assert Frames(owed).delay == 46 * MODEL_HZ // 1000
    flat = heard.ravel().astype(float)
    fits = [
        float(np.dot(said[delay:].astype(float), flat[: len(flat) - delay]))
        for delay in range(late - 400, late + 400)
    ]
    assert int(np.argmax(fits)) == 400
    error = said[late:].astype(float) - flat[: len(flat) - late]
    assert np.sqrt(np.mean(error[400:-400] ** 2)) < 3


def test_silence_stands_before_the_first_frame_and_is_no_longer_than_it_must_be() -> None:
    assert lead_of(1) == FRAME_SAMPLES * 3 // 2
    frames = Frames(0)
    frames._spoken = frames._spoken[1:]  # one sample less
    frames.hear(tone(1)[0])
    while frames.waiting:
        frames.speak(frames.take())
    with pytest.raises(AssertionError, match="was not answered"):
        frames.reply()


def test_each_call_has_a_phase_of_its_own() -> None:
    sound = tone(9)
    alone, counts = answers(sound, 1)
    assert counts == [2, 3, 2, 3, 2, 3, 2, 3, 2]
    begun_later, _ = answers(sound[1:], 1)
    assert not np.array_equal(alone[TURN_SAMPLES:], begun_later)
    inward = np.concatenate([Resampler(MODEL_HZ, FRAME_HZ).push(sound.ravel())])
    assert len(inward) == 9 * TURN_SAMPLES * 3 // 2
