"""libopus bound by hand: speech survives, hostile bytes do nothing, and what is made is freed."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.codecs import opus
from media.codecs.opus import (
    FEC_OFF_NS,
    MAX_PAYLOAD_BYTES,
    OpusDecoder,
    OpusEncoder,
    frame_samples,
    has_lbrr,
    samples_in,
)
from media.timebase import NS_PER_S
from tests.support.virtual_line import FRAME, RATE, SPEECH, packed, speech, spoken

pytestmark = pytest.mark.skipif(not SPEECH.is_dir(), reason=f"no recorded speech at {SPEECH}")
LOW_DELAY_LAG, ROBUST_LAG = 40, 104  # samples at 16 kHz: look-ahead of 2.5 and 6.5 ms


def frames_of(pcm: np.ndarray) -> list[np.ndarray]:
    return [pcm[at : at + FRAME] for at in range(0, len(pcm) - FRAME + 1, FRAME)]


def likeness(heard: np.ndarray, said: np.ndarray, lag: int) -> float:
    a, b = heard[lag:].astype(float), said[: len(heard) - lag].astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize(("fec", "lag"), [(False, LOW_DELAY_LAG), (True, ROBUST_LAG)])
def test_speech_comes_back_as_speech_after_the_look_ahead(fec: bool, lag: int) -> None:
    pesq = pytest.importorskip("pesq")
    packets = spoken(8.0, fec=fec)
    decoder = OpusDecoder(RATE)
    heard, said = np.concatenate([decoder.decode(p) for p in packets]), speech(8.0)
    assert len(heard) == len(packets) * FRAME
    assert likeness(heard, said, lag) > max(
        0.97, likeness(heard, said, lag + 8), likeness(heard, said, lag - 8)
    )
    assert pesq.pesq(RATE, said[: len(heard) - lag], heard[lag:], "wb") > 3.5
    assert 0.7 * 32_000 < sum(map(len, packets)) * 8 / 8.0 < 1.2 * 32_000


def test_a_clean_line_gets_celt_and_a_lossy_one_silk_with_the_frame_before() -> None:
    assert {packet[0] >> 3 for packet in spoken(8.0)} == {23}  # CELT wideband 20 ms, RFC 6716 table 2
    robust = spoken(8.0, fec=True)
    assert {packet[0] >> 3 for packet in robust} == {9}  # SILK wideband 20 ms
    assert sum(map(has_lbrr, robust)) > 0.4 * len(robust)
    assert not any(map(has_lbrr, spoken(8.0)))


def test_the_modes_change_with_hysteresis() -> None:
    encoder, second = OpusEncoder(), NS_PER_S
    reports = [(0.0, False), (2.0, False), (2.5, True), (1.5, True), (0.5, True), (1.2, True), (0.5, True)]
    for at, (loss, fec) in enumerate(reports):
        encoder.tune(loss, 32_000, at * second)
        assert encoder.fec is fec, at
    begun = 6 * second
    encoder.tune(0.0, 32_000, begun + FEC_OFF_NS - 1)
    assert encoder.fec
    encoder.tune(0.9, 32_000, begun + FEC_OFF_NS)
    assert not encoder.fec and encoder.switches == 2


def test_a_change_of_mode_is_heard_through() -> None:
    said, encoder, decoder = speech(8.0), OpusEncoder(), OpusDecoder(RATE)
    heard = []
    for index, frame in enumerate(frames_of(said)):
        if index % 50 == 0:
            encoder.tune(10.0 * (index // 50 % 2), 32_000, index * NS_PER_S)
            encoder.tune(10.0 * (index // 50 % 2), 32_000, index * NS_PER_S + FEC_OFF_NS)
        heard.append(decoder.decode(encoder.encode(frame)))
    assert encoder.switches == 7
    pcm = np.concatenate(heard)
    assert max(np.abs(pcm.astype(int))) <= 1.3 * max(np.abs(said.astype(int)))
    for at in range(0, len(pcm) - RATE, RATE):
        piece, loudest = pcm[at : at + RATE], np.abs(np.diff(said[at : at + RATE].astype(int))).max()
        assert np.abs(np.diff(piece.astype(int))).max() < 2 * loudest + 500  # no click


def test_an_encoder_that_is_changed_to_has_no_past() -> None:
    frames = frames_of(speech(4.0))
    fresh, used = OpusEncoder(), OpusEncoder()
    for frame in frames[100:]:
        used.encode(frame)
    for loss, now_ns in ((10.0, 0), (0.0, 1), (0.0, FEC_OFF_NS + 1)):
        used.tune(loss, 32_000, now_ns)
    assert used.switches == 2
    assert [used.encode(frame) for frame in frames[:50]] == [fresh.encode(frame) for frame in frames[:50]]


def test_the_bitrate_follows_and_is_bounded() -> None:
    sizes = []
    for bitrate in (8_000, 32_000, 10_000_000):
        encoder = OpusEncoder()
        encoder.tune(0.0, bitrate, 0)
        sizes.append(sum(len(encoder.encode(frame)) for frame in frames_of(speech(4.0))) * 2)
    assert sizes[0] < 12_000 < sizes[1] < 40_000 < sizes[2] < 140_000


def test_loud_noise_fits_into_a_packet() -> None:
    rng, encoder = np.random.default_rng(1), OpusEncoder(RATE, 128_000)
    for loss in (0.0, 30.0):
        encoder.tune(loss, 128_000, 0)
        for _ in range(50):
            packet = encoder.encode(rng.integers(-32_768, 32_767, FRAME).astype(np.int16))
            assert 0 < len(packet) <= MAX_PAYLOAD_BYTES


def test_frames_need_not_be_contiguous() -> None:
    stereo = np.repeat(speech(1.0)[:FRAME, None], 2, axis=1)
    assert OpusEncoder().encode(stereo[:, 0]) == OpusEncoder().encode(speech(1.0)[:FRAME])


def test_a_lost_frame_is_given_back_and_a_concealed_one_is_of_the_length_asked_for() -> None:
    packets, errors = spoken(12.0, fec=True), np.zeros(2)
    for lost in range(20, len(packets) - 1, 7):
        if not has_lbrr(packets[lost + 1]):
            continue
        decoders = [OpusDecoder(RATE) for _ in range(3)]
        for packet in packets[lost - 20 : lost]:
            for decoder in decoders:
                decoder.decode(packet)
        truth = decoders[0].decode(packets[lost]).astype(float)
        recovered = decoders[1].recover(packets[lost + 1], FRAME)
        concealed = decoders[2].conceal(FRAME)
        assert len(recovered) == len(concealed) == FRAME
        errors += [((recovered - truth) ** 2).sum(), ((concealed - truth) ** 2).sum()]
    assert 0 < errors[0] < 0.5 * errors[1]
    assert [len(OpusDecoder(RATE).conceal(n)) for n in (1, 39, 40, 41, 333, 1_920)] == [
        1,
        39,
        40,
        41,
        333,
        1_920,
    ]
    assert len(OpusDecoder(RATE).recover(b"\xff\xff", 320)) == 320


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_packets_of_up_to_120_ms_are_understood_as_libopus_does(rate_hz: int, frames: int) -> None:
    lib, decoder = opus.library(), OpusDecoder(rate_hz)
    for fec in (False, True):
        for packet in packed(spoken(8.0, fec=fec), frames)[:40]:
            expected = frames * rate_hz // 50
            assert samples_in(packet, rate_hz) == decoder.duration(packet) == expected
            assert lib.opus_packet_get_nb_samples(packet, len(packet), rate_hz) == expected
            assert len(decoder.decode(packet)) == expected
            assert frame_samples(packet, rate_hz) == rate_hz // 50
            if hasattr(lib, "opus_packet_has_lbrr"):
                assert has_lbrr(packet) is bool(lib.opus_packet_has_lbrr(packet, len(packet)))
            assert decoder.recoverable(packet) == (rate_hz // 50 if has_lbrr(packet) else 0)


def test_seven_frames_of_20_ms_are_too_many() -> None:
    assert samples_in(bytes([0x48 | 3, 7]) + bytes(70), RATE) == 0
    assert len(OpusDecoder(RATE).decode(bytes([0x48 | 3, 7]) + bytes(70))) == 0


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_raise(payload: bytes) -> None:
    decoder, lib = OpusDecoder(RATE), opus.library()
    pcm = decoder.decode(payload)
    assert pcm.dtype == np.int16 and len(pcm) in (0, samples_in(payload, RATE))
    parsed = lib.opus_packet_parse(payload, len(payload), None, None, (ctypes.c_int16 * 48)(), None)
    if parsed > 0:
        assert samples_in(payload, RATE) == lib.opus_packet_get_nb_samples(payload, len(payload), RATE)
        if hasattr(lib, "opus_packet_has_lbrr"):
            assert has_lbrr(payload) is bool(lib.opus_packet_has_lbrr(payload, len(payload)))
    else:
        assert len(pcm) == 0
    assert len(decoder.recover(payload, FRAME)) == FRAME
    assert len(decoder.conceal(FRAME)) == FRAME
    assert decoder.recoverable(payload) >= 0 and decoder.is_pause(payload) in (True, False)


def test_the_native_memory_is_given_back() -> None:
    def resident_kib() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    def make_some() -> None:
        for _ in range(300):
            encoder, decoder = OpusEncoder(), OpusDecoder(RATE)
            encoder.tune(50.0, 32_000, 0)
            decoder.decode(encoder.encode(np.ones(FRAME, np.int16)))
        gc.collect()

    make_some()
    before = resident_kib()
    for _ in range(5):
        make_some()
    assert resident_kib() - before < 5_000  # 1,500 of each would be 100 MB


def test_a_machine_without_libopus_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ImportError, match="pip install av"):
        opus.library.__wrapped__()


@pytest.mark.parametrize("make", [OpusDecoder, OpusEncoder])
def test_a_rate_that_opus_has_not_is_refused(make: type) -> None:
    with pytest.raises(ValueError, match="no 44100 Hz: use one of 8000"):
        make(44_100)
    with pytest.raises(ValueError, match="bitrate 5"):
        OpusEncoder(RATE, 5)


def test_the_library_in_use_is_the_one_beside_pyav_if_there_is_one() -> None:
    bundled = opus._bundled()
    if not bundled:
        pytest.skip("PyAV is not installed as a wheel")
    assert opus.library()._name == bundled[0]
