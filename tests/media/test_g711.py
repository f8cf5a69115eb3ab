"""G.711 against the ITU's sweep of all 65,536 samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from media.codecs import g711
from media.conceal import DELAY
from tests.support.frame_store import tone

SHARED = Path(__file__).parents[3] / "shared"  # beside the checkout, not part of it
VECTORS = SHARED / "data/vectors/itu_g711"

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no ITU G.711 vectors at {VECTORS}")


def words(name: str) -> np.ndarray:
    """The vector files hold one little-endian 16-bit word per sample or octet, whatever their README says."""
    return np.fromfile(VECTORS / name, dtype="<i2")


@needs_vectors
def test_encoders_match_the_itu_sweep_in_every_sample() -> None:
    sweep = words("sweep.src")
    assert sweep.size == 65536
    assert g711.encode_mulaw(sweep) == words("sweep-r.u").astype(np.uint8).tobytes()
    assert g711.encode_alaw(sweep) == words("sweep-r.a").astype(np.uint8).tobytes()


@needs_vectors
def test_decoders_match_the_itu_sweep_in_every_sample() -> None:
    mulaw, alaw = words("sweep-r.u").astype(np.uint8), words("sweep-r.a").astype(np.uint8)
    np.testing.assert_array_equal(g711.decode_mulaw(mulaw.tobytes()), words("sweep-r.u-u"))
    np.testing.assert_array_equal(g711.decode_alaw(alaw.tobytes()), words("sweep-r.a-a"))


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_codes_survive_a_second_pass(law: str) -> None:
    encode, decode = getattr(g711, f"encode_{law}"), getattr(g711, f"decode_{law}")
    codes = bytes(range(256))
    once = decode(codes)
    np.testing.assert_array_equal(decode(encode(once)), once)


def test_silence_codes_are_silent() -> None:
    assert g711.encode_mulaw(np.zeros(1, dtype=np.int16)) == bytes([g711.MULAW_SILENCE])
    assert g711.encode_alaw(np.zeros(1, dtype=np.int16)) == bytes([g711.ALAW_SILENCE])
    assert g711.decode_mulaw(bytes([g711.MULAW_SILENCE]))[0] == 0
    assert abs(int(g711.decode_alaw(bytes([g711.ALAW_SILENCE]))[0])) == 8  # A-law has no zero


def test_strided_and_empty_input() -> None:
    stereo = np.arange(640, dtype=np.int16).reshape(320, 2)
    assert g711.encode_mulaw(stereo[:, 0]) == g711.encode_mulaw(stereo[:, 0].copy())
    assert g711.encode_alaw(np.zeros(0, dtype=np.int16)) == b""
    assert g711.decode_mulaw(b"").size == 0


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_a_stream_of_packets_comes_out_whole_and_one_lost_is_made_up(law: str) -> None:
    encode, decode = getattr(g711, f"encode_{law}"), getattr(g711, f"decode_{law}")
    packets = [encode(tone(160, index * 160)) for index in range(10)]
    decoder = g711.G711Decoder(decode)
    assert {decoder.duration(packet) for packet in packets} == {160}
    heard = [
        decoder.recover(packets[6], 160) if index == 5 else decoder.decode(packet)
        for index, packet in enumerate(packets)
    ]
    assert [pcm.size for pcm in heard] == [160] * 10
    pcm, wanted = np.concatenate(heard)[DELAY:], decode(b"".join(packets))
    begin, end = 5 * 160 - DELAY, 6 * 160 + 80
    assert np.array_equal(pcm[:begin], wanted[:begin])
    assert np.array_equal(pcm[end:], wanted[end : pcm.size])
    assert np.abs(pcm[begin:end]).max() > 4_000


def test_a_packet_of_any_octets_and_of_none_is_decoded() -> None:
    decoder = g711.G711Decoder(g711.decode_mulaw)
    assert decoder.decode(bytes(range(256))).size == 256
    assert decoder.decode(b"").size == 0 and decoder.duration(b"") == 0
    assert decoder.recoverable(b"x") == 0 and not decoder.is_pause(b"x")
