"""What lies between mouth and model: room, microphone, noise, level, codec and a network that loses packets.

G.711 and the concealment of lost packets are written here once more, in short, for the model server may not import
the codecs and organs of the gateway; tests hold them to those. All sound is float32 or int16 at 16 kHz, of a whole
conversation at once.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from media.timebase import FRAME_MS, MODEL_HZ
from model_server.model.micro_turn import POSITION_SAMPLES
from model_server.training.bank import SPEECH_RMS
from model_server.training.clip import PCM, Floats

FRAME_SAMPLES = MODEL_HZ * FRAME_MS // 1000
_SILENT = MODEL_HZ * 60 // 1000
_COLOUR_TAPS, _OCTAVES = 256, np.array([62.5, 125, 250, 500, 1000, 2000, 4000, 8000])
_MATCH, _LOW, _HIGH = MODEL_HZ // 50, MODEL_HZ // 400, MODEL_HZ * 15 // 1000
_BLOCK = 16384


class Codec(enum.StrEnum):
    """How the sound travels, as the ear knows it."""

    MULAW = "pcmu"
    ALAW = "pcma"
    OPUS = "opus"
    """Full band; at low rates it is a low-pass at 6 kHz (`OPUS_MEDIUM`)."""
    OPUS_MEDIUM = "opus-medium"


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The channel of one call."""

    codec: Codec
    level_dbfs: float
    """RMS of the caller's speech."""
    snr_db: float = 60.0
    noise: PCM | None = None
    room: Floats | None = None
    colour: Floats | None = None
    """Response of the caller's microphone and telephone; None: flat."""
    loss: float = 0.0
    """Share of 20 ms packets that do not come."""
    burst: float = 1.0
    """Mean length of a run of lost packets (Gilbert's model)."""
    echo_db: float | None = None
    """Level of our own voice in the caller's microphone, against what we sent; None: no echo."""


def drawn(
    rng: np.random.Generator, noises: Sequence[PCM], rooms: Sequence[Floats], hardness: float = 1.0
) -> Line:
    """A line as calls have them: a third clean, a third in rooms, half with noise, four in ten lossy.

    Below a hardness of 1 fewer lines have any of it, and noise is fainter; at 0 only codecs, levels and
    microphones differ.
    """
    noisy, roomy, lossy = rng.random(3) < np.array([0.6, 0.35, 0.4]) * hardness
    codecs = (Codec.MULAW, Codec.ALAW, Codec.OPUS, Codec.OPUS_MEDIUM)
    return Line(
        codec=codecs[int(rng.choice(4, p=[0.3, 0.2, 0.35, 0.15]))],
        level_dbfs=float(rng.uniform(-35, -10)),
        snr_db=float(rng.uniform(5 + 20 * (1 - hardness), 40)) if noisy else float(rng.uniform(40, 60)),
        noise=noises[int(rng.integers(len(noises)))] if noises and noisy else None,
        room=rooms[int(rng.integers(len(rooms)))] if rooms and roomy else None,
        colour=colour(rng, 4.0, 3.0) if rng.random() < 0.8 else None,
        loss=float(rng.uniform(0.005, 0.15)) if lossy else 0.0,
        burst=float(rng.uniform(1.0, 4.0)),
        echo_db=float(rng.uniform(-45, -18)) if rng.random() < 0.3 * hardness else None,
    )


def heard(
    speech: Floats, own: Floats, line: Line, rng: np.random.Generator
) -> tuple[PCM, npt.NDArray[np.int64]]:
    """What the model hears of a conversation.

    `speech` float32 [n] has speakers at SPEECH_RMS, `own` float32 [n] is our voice as the caller hears it.
    Returns int16 [n], and int64 [n / 800]: of each 50 ms, how many samples were made up.
    """
    sound = in_room(speech, line.room) if line.room is not None else speech
    sound = coloured(sound, line.colour) if line.colour is not None else sound
    sound = sound * np.float32(10 ** (line.level_dbfs / 20) * 32768 / SPEECH_RMS)
    if line.echo_db is not None:
        sound = sound + own * np.float32(10 ** (line.echo_db / 20))
    sound = sound + _noise(len(sound), line, rng)
    pcm = coded(np.clip(sound, -32768, 32767).astype(np.int16), line.codec)
    lost = losses(rng, len(pcm) // FRAME_SAMPLES, line.loss, line.burst)
    return concealed(pcm, lost), made_up(lost)


def in_room(speech: Floats, room: Floats) -> Floats:
    """float32 [n] convolved with a response of at most 8,192 samples (overlap-save)."""
    step = _BLOCK - len(room) + 1
    count = -(-len(speech) // step)
    padded = np.zeros(_BLOCK + count * step, np.float32)
    padded[len(room) - 1 : len(room) - 1 + len(speech)] = speech
    blocks = sliding_window_view(padded, _BLOCK)[: count * step : step]
    spectrum = np.fft.rfft(blocks, axis=1) * np.fft.rfft(room, _BLOCK)
    out = np.fft.irfft(spectrum, axis=1)[:, len(room) - 1 :]
    return out.reshape(-1)[: len(speech)].astype(np.float32)


def colour(rng: np.random.Generator, tilt_db: float, spread_db: float) -> Floats:
    """The response of some microphone: float32 [256], of least phase.

    It rises or falls by `tilt_db` an octave at most, and departs from that by `spread_db` (standard deviation) at
    each octave; three in ten lose the lows as well, two in ten the highs, by 18 dB an octave. Speakers of the
    same words are told apart by their recordings more than by their voices: what has met a few microphones only
    does not hear through others.
    """
    gains_db = rng.uniform(-tilt_db, tilt_db) * np.log2(_OCTAVES / 1000) + rng.normal(0, spread_db, 8)
    hz = np.fft.rfftfreq(4 * _COLOUR_TAPS, 1 / MODEL_HZ)
    db = np.interp(np.log2(np.maximum(hz, _OCTAVES[0])), np.log2(_OCTAVES), gains_db)
    if rng.random() < 0.3:
        db -= 18 * np.maximum(0, np.log2(rng.uniform(120, 450) / np.maximum(hz, _OCTAVES[0])))
    if rng.random() < 0.2:
        db -= 18 * np.maximum(0, np.log2(np.maximum(hz, _OCTAVES[0]) / rng.uniform(2500, 6000)))
    cepstrum = np.fft.irfft(db * (np.log(10) / 20))
    half = len(cepstrum) // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:_COLOUR_TAPS]
    return response.astype(np.float32)


def coloured(sound: Floats, response: Floats) -> Floats:
    """float32 [n] through that response, as loud as before."""
    out = in_room(sound, response)
    loud, before = float(np.sqrt(np.mean(out * out))), float(np.sqrt(np.mean(sound * sound)))
    return out * np.float32(before / loud) if loud > 0 else out


def coded(pcm: PCM, codec: Codec) -> PCM:
    """int16 [n] as it comes out of the other end of the codec, without its delay."""
    if codec is Codec.OPUS:
        return pcm
    narrow_hz = 12000 if codec is Codec.OPUS_MEDIUM else 8000
    narrow = soxr.resample(pcm, MODEL_HZ, narrow_hz, quality="MQ")
    if codec in _COMPANDED:
        narrow = companded(narrow, codec)
    wide: PCM = soxr.resample(narrow, narrow_hz, MODEL_HZ, quality="MQ")
    return np.resize(wide, len(pcm)) if len(wide) >= len(pcm) else np.pad(wide, (0, len(pcm) - len(wide)))


def companded(pcm: PCM, codec: Codec) -> PCM:
    """int16 [n] after G.711's 8 bits."""
    return _COMPANDED[codec][pcm.view(np.uint16)]


def losses(rng: np.random.Generator, frames: int, share: float, burst: float) -> npt.NDArray[np.bool_]:
    """bool [frames], true where a packet is lost: runs of mean length `burst`, `share` of all."""
    lost = np.zeros(frames, bool)
    if share <= 0:
        return lost
    at = int(rng.exponential(burst / share))
    while at < frames:
        run = int(rng.geometric(1 / burst))
        lost[at : at + run] = True
        at += run + 1 + int(rng.exponential(burst * (1 / share - 1)))
    return lost


def concealed(pcm: PCM, lost: npt.NDArray[np.bool_]) -> PCM:
    """The sound with lost 20 ms frames made up much as the gateway does (ITU-T G.711 Appendix I): the last pitch
    period repeated, whole for 10 ms, then fading, silent after 60. Without its overlaps and further periods."""
    out, already = pcm.copy(), 0
    for frame in np.flatnonzero(lost):
        start = int(frame) * FRAME_SAMPLES
        already = already + FRAME_SAMPLES if frame and lost[frame - 1] else 0
        out[start : start + FRAME_SAMPLES] = _extended(out[:start], already)
    return out


def made_up(lost: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """bool [frames of 20 ms] -> int64 [n / 800]: samples that were concealed in each 50 ms."""
    samples = np.repeat(lost, FRAME_SAMPLES)
    whole = len(samples) // POSITION_SAMPLES * POSITION_SAMPLES
    return samples[:whole].reshape(-1, POSITION_SAMPLES).sum(axis=1)


def _extended(history: PCM, already: int) -> PCM:
    if already >= _SILENT or len(history) < _MATCH + _HIGH:
        return np.zeros(FRAME_SAMPLES, np.int16)
    recent = history[-(_MATCH + _HIGH) :].astype(np.float32)
    windows = sliding_window_view(recent, _MATCH)[: _HIGH - _LOW + 1]
    power = np.sqrt(np.einsum("ij,ij->i", windows, windows)) + 1.0
    lag = _HIGH - int(np.argmax(windows @ recent[-_MATCH:] / power))
    gain = np.clip(1.2 * (1.0 - (already + np.arange(FRAME_SAMPLES)) / _SILENT), 0.0, 1.0)
    return (np.resize(recent[-lag:], FRAME_SAMPLES) * gain).astype(np.int16)


def _noise(count: int, line: Line, rng: np.random.Generator) -> Floats:
    """Noise at the line's SNR against the level of speech: of the file, or faint and white."""
    rms = 10 ** ((line.level_dbfs - line.snr_db) / 20) * 32768
    if line.noise is None:
        return rng.standard_normal(count, dtype=np.float32) * np.float32(min(rms, 60.0))
    start = int(rng.integers(len(line.noise)))
    noise = np.resize(np.roll(line.noise, -start), count).astype(np.float32)
    own = float(np.sqrt(np.mean(noise * noise))) + 1e-3
    return noise * np.float32(rms / own)


def _mulaw_heard() -> PCM:
    """int16 [65536]: each sample (as uint16) after mu-law, by ITU-T G.711 table 2a."""
    linear = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int64)
    biased = np.minimum((np.where(linear < 0, ~linear, linear) >> 2) + 33, 0x1FFF)
    segment = np.log2(biased >> 5).astype(np.int64)
    middle = ((biased >> (segment + 1)) * 2 + 1) << segment
    return (np.where(linear < 0, -1, 1) * (middle - 33) * 4).astype(np.int16)


def _alaw_heard() -> PCM:
    """int16 [65536]: each sample (as uint16) after A-law, by ITU-T G.711 table 1a."""
    linear = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int64)
    magnitude = np.where(linear < 0, ~linear, linear) >> 4
    step = 1 << np.maximum(np.log2(np.maximum(magnitude, 1)).astype(np.int64) - 4, 0)
    middle = (magnitude // step * step * 2 + step) * 8
    return (np.where(linear < 0, -1, 1) * middle).astype(np.int16)


_COMPANDED = {Codec.MULAW: _mulaw_heard(), Codec.ALAW: _alaw_heard()}
