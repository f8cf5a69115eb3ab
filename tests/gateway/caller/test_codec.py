"""Whole-call encoding: 160 bytes per 20 ms, and back."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.caller.codec import find_codec
from gateway.caller.signals import numbered_tones


@pytest.mark.parametrize("name", ["PCMU", "pcma", "G722"])
def test_a_second_is_eight_thousand_bytes_and_sounds_the_same(name: str) -> None:
    if name == "G722":
        pytest.importorskip("av", reason="G.722 needs PyAV")
    codec = find_codec(name)
    pcm = numbered_tones(1, codec.rate_hz, seed=1)
    payload = codec.encode(pcm)
    assert len(payload) == 8000
    back = codec.decode(payload)
    assert back.size == pcm.size
    product = np.fft.irfft(np.fft.rfft(back, 32768) * np.conj(np.fft.rfft(pcm, 32768)))
    likeness = product.max() / np.linalg.norm(pcm.astype(float)) / np.linalg.norm(back.astype(float))
    assert likeness > 0.98
    assert int(product.argmax()) < 30  # G.722's filters delay by 22 samples


def test_unknown_codec_names_the_choice() -> None:
    with pytest.raises(ValueError, match="PCMU, PCMA or G722"):
        find_codec("opus")
