"""Audio formats: what goes in comes out, in any pieces."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.realtime.sound import FORMATS, Ear, Mouth
from media.timebase import MODEL_HZ
from tests.gateway.realtime.wire import tone


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_tone_survives_mouth_and_ear(name: str) -> None:
    form = FORMATS[name]
    mouth, ear, said = Mouth(form), Ear(form), tone(MODEL_HZ)
    data = b"".join(mouth.encode(said[at : at + 320].tobytes()) for at in range(0, len(said), 320))
    assert len(data) == form.rate_hz * form.sample_bytes
    heard = ear.decode(data).astype(float)
    wave = np.exp(-2j * np.pi * 440 * np.arange(len(heard)) / form.rate_hz)
    amplitude = 2 * abs(np.mean(heard * wave))
    assert amplitude == pytest.approx(8_000, rel=0.02)


def test_half_a_sample_waits_for_its_other_half() -> None:
    ear, data = Ear(), tone(100).tobytes()
    pieces = [ear.decode(data[at : at + 3]) for at in range(0, len(data), 3)]
    assert np.concatenate(pieces).tobytes() == data
