"""Acoustic vectors to sound, streamed: harmonics and noise through a minimum-phase filter.

A source-filter vocoder in the line of WORLD (Morise 2016, doi 10.1587/transinf.2015EDP7457) with nothing to
train. The source is a band-limited train of pulses (Stilson and Smith 1996) mixed with noise, cut by a Hann
window every 12.5 ms; the filter's logarithm is linear in the 80 log-mels, magnitude and phase alike, so it is
one matrix product away; the filtered pieces overlap and add.

Knows nothing of words or of the network. One rule: whatever is cut into turns sounds as in one piece, bit for
bit, so phase is an integer and pieces are added oldest first.

Shapes: B calls, S sub-frames (16 a turn), F = 82, M = 80 mels, K = 401 bins, N = 800 samples of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.model.micro_turn import MEL_CHANNELS, SPEAK_POSITIONS, SUBFRAMES

SUBFRAMES_PER_TURN = SPEAK_POSITIONS * SUBFRAMES
SUBFRAME_SAMPLES = TURN_SAMPLES // SUBFRAMES_PER_TURN  # 12.5 ms

MELS = MEL_CHANNELS
LOG_F0 = MELS  # natural logarithm of Hz; goes on through what is unvoiced
VOICING = MELS + 1  # 0 noise .. 1 harmonics
FEATURES = MELS + 2

FLOOR = -4.0  # log10 of the gain over a unit-power source: what silence holds in every mel
CEILING = 1.0
SILENT_GAIN = 10.0**-3.5  # a piece whose gain's RMS is below this (-70 dBFS) is exactly zero
SILENT_MEL = math.log10(SILENT_GAIN)  # where all mels are below it, so is the gain
RESTING_F0_HZ = 180.0  # of silence, and of a call that has not spoken yet
MIN_F0_HZ, MAX_F0_HZ = 60.0, 500.0

FFT = 800  # window and up to 25 ms of the filter's response
BINS = FFT // 2 + 1
_HOPS = FFT // SUBFRAME_SAMPLES
_GROUP = 16  # calls that are worked on at once: what they need in between stays in the cache
_NOISE_TURNS = 5  # the noise comes again after a second
_PERIOD = 2**32  # of the pulses, in units of phase
_HARMONIC_UNTIL_HZ, _NOISE_FROM_HZ = 3_500.0, 7_500.0  # a voiced sound loses its harmonics in between
_NOISY_TOP = 0.6  # share of harmonics (amplitude) left at the upper end


@dataclass(slots=True)
class VocoderState:
    """What a call carries from turn to turn. Every field's first axis is the call."""

    phase: Tensor  # int64 [B], of the pulses, in 2^-32 of a period
    log_f0: Tensor  # float32 [B], of the last sub-frame
    source: Tensor  # float32 [B, 200], the last sub-frame of pulses
    tail: Tensor  # float32 [B, 600], of pieces that began earlier
    turn: Tensor  # int64 [B], place in the noise

    @property
    def bytes_per_row(self) -> int:
        """What one call costs."""
        return sum(getattr(self, name)[0].nbytes for name in self.__slots__)

    def open(self, row: int) -> None:
        """A call begins in this row."""
        self.put(torch.tensor([row]), _fresh(1))

    def select(self, rows: Tensor) -> VocoderState:
        """A copy of those calls' state (int64 [n])."""
        return VocoderState(*(getattr(self, name).index_select(0, rows) for name in self.__slots__))

    @classmethod
    def join(cls, states: Sequence[VocoderState]) -> VocoderState:
        """The calls of all these, one after another."""
        return cls(*(torch.cat([getattr(state, name) for state in states]) for name in cls.__slots__))

    def put(self, rows: Tensor, state: VocoderState) -> None:
        """Write the state of those calls (int64 [n]) back."""
        for name in self.__slots__:
            getattr(self, name)[rows] = getattr(state, name)


class Vocoder(nn.Module):
    """Holds constants only: no parameter, nothing in the checkpoint."""

    filter_MK: Tensor
    window: Tensor
    noise_SK: Tensor
    harmonic_K: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._constant("filter_MK", torch.from_numpy(_log_filter()))
        self._constant("window", torch.hann_window(2 * SUBFRAME_SAMPLES))
        self._constant("noise_SK", _noise(self.window))
        self._constant("harmonic_K", torch.from_numpy(_harmonic_share()))

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def start(self, calls: int) -> VocoderState:
        """The state of calls that have not spoken."""
        return _fresh(calls)

    @torch.inference_mode()
    def forward(self, features: Tensor, state: VocoderState) -> tuple[Tensor, VocoderState]:
        """Sound of whole turns: float32 [B, S, F] -> int16 [B, 200 S], and the state after them.

        S is a multiple of 16. The piece of sub-frame j is centred on sample 200 j + 200 of the output.
        """
        subframes = features.shape[1]
        if subframes % SUBFRAMES_PER_TURN:
            raise ValueError(f"{subframes} sub-frames are not whole turns of {SUBFRAMES_PER_TURN}")
        groups = zip(features.split(_GROUP), torch.arange(len(features)).split(_GROUP), strict=True)
        sounds, states = zip(*(self._sound(part, state.select(rows)) for part, rows in groups), strict=True)
        return torch.cat(sounds), VocoderState.join(states)

    def _sound(self, features: Tensor, state: VocoderState) -> tuple[Tensor, VocoderState]:
        """`forward` of one group."""
        pieces_BSN, after = self.pieces(features, state)
        sound, after.tail = _overlap_add(pieces_BSN, state.tail)
        return (sound * 32767).round().clamp(-32768, 32767).to(torch.int16), after

    def pieces(self, features: Tensor, state: VocoderState) -> tuple[Tensor, VocoderState]:
        """Pieces [B, S, N] that are still to be added at their sub-frames, and the state but for its tail."""
        subframes = features.shape[1]
        pulses, phase, log_f0 = self._pulses(features[..., LOG_F0], state)
        pulses = torch.cat((state.source, pulses), 1)
        spectrum_BSK = torch.fft.rfft(
            pulses.unfold(1, 2 * SUBFRAME_SAMPLES, SUBFRAME_SAMPLES) * self.window, FFT
        )
        harmonics = features[..., VOICING:].clamp(0, 1) * self.harmonic_K
        noise_BSK = self._noise_of(state.turn, subframes // SUBFRAMES_PER_TURN)
        source_BSK = spectrum_BSK * harmonics + noise_BSK * (1 - harmonics.square()).sqrt()
        pieces_BSN = torch.fft.irfft(source_BSK * self._filter(features[..., :MELS]), FFT)
        turn = (state.turn + subframes // SUBFRAMES_PER_TURN) % _NOISE_TURNS
        source = pulses[:, -SUBFRAME_SAMPLES:].clone()
        return pieces_BSN, VocoderState(phase, log_f0, source, state.tail, turn)

    def _pulses(self, log_f0_BS: Tensor, state: VocoderState) -> tuple[Tensor, Tensor, Tensor]:
        """Unit-power pulses [B, 200 S], harmonics up to the Nyquist frequency; phase and log F0 at the end."""
        log_f0_BS = log_f0_BS.clamp(math.log(MIN_F0_HZ), math.log(MAX_F0_HZ))
        before_BS = torch.cat((state.log_f0[:, None], log_f0_BS[:, :-1]), 1)
        ramp = (torch.arange(SUBFRAME_SAMPLES, device=log_f0_BS.device) + 1) / SUBFRAME_SAMPLES
        f0_hz = (before_BS[..., None] + (log_f0_BS - before_BS)[..., None] * ramp).exp().flatten(1)
        step = (f0_hz * (_PERIOD / MODEL_HZ)).to(torch.int64)
        phase = state.phase[:, None] + step.cumsum(1)
        centred = _wrapped(phase + _PERIOD // 2) - _PERIOD // 2
        half_angle = centred.float() * (math.pi / _PERIOD)  # -pi/2 .. pi/2
        odd = 2 * torch.floor(0.5 * MODEL_HZ / f0_hz) - 1  # one more than twice the harmonics
        below = torch.sin(half_angle)
        train = torch.where(below.abs() < 1e-5, odd, torch.sin(odd * half_angle) / below) - 1  # no mean
        return train * (f0_hz / MODEL_HZ).sqrt(), _wrapped(phase[:, -1]), log_f0_BS[:, -1]

    def _noise_of(self, turn: Tensor, turns: int) -> Tensor:
        """Spectra [B, 16 turns, K] of the noise from that turn of it on."""
        index = (turn[:, None] + torch.arange(turns, device=turn.device)) % _NOISE_TURNS
        return self.noise_SK.index_select(0, index.flatten()).unflatten(0, index.shape).flatten(1, 2)

    def _filter(self, log_mel_BSM: Tensor) -> Tensor:
        """Minimum-phase response, complex64 [B, S, K]; zero where it is silent."""
        log_K = log_mel_BSM.clamp(FLOOR, CEILING) @ self.filter_MK
        gain = log_K[..., :BINS].exp()
        heard = gain.square().mean(-1, keepdim=True) > SILENT_GAIN**2
        gain, phase = gain * heard, log_K[..., BINS:]
        return torch.complex(gain * phase.cos(), gain * phase.sin())


def is_heard(features: Tensor, tail: Tensor) -> Tensor:
    """bool [B]: turns, float32 [B, S, F], that are not exactly silent. In calls the others leave the state as it
    is: the CPU's form does not compute them, and a word sounds by where the pulses were."""
    return (features[..., :MELS].amax((1, 2)) > SILENT_MEL) | tail.any(1)


def _fresh(calls: int) -> VocoderState:
    return VocoderState(
        phase=torch.zeros(calls, dtype=torch.int64),
        log_f0=torch.full((calls,), math.log(RESTING_F0_HZ)),
        source=torch.zeros(calls, SUBFRAME_SAMPLES),
        tail=torch.zeros(calls, FFT - SUBFRAME_SAMPLES),
        turn=torch.zeros(calls, dtype=torch.int64),
    )


def _wrapped(phase: Tensor) -> Tensor:
    return phase & (_PERIOD - 1)


def _overlap_add(pieces_BSN: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces at their sub-frames onto what was carried: [B, 200 S] and the next tail [B, 600].

    Older pieces are added first, as the tail has them already.
    """
    calls, subframes, _ = pieces_BSN.shape
    parts = pieces_BSN.view(calls, subframes, _HOPS, SUBFRAME_SAMPLES)
    sound = pieces_BSN.new_zeros(calls, subframes + _HOPS - 1, SUBFRAME_SAMPLES)
    sound[:, : _HOPS - 1] = tail.view(calls, _HOPS - 1, SUBFRAME_SAMPLES)
    for hop in reversed(range(_HOPS)):
        sound[:, hop : hop + subframes] += parts[:, :, hop]
    sound = sound.flatten(1)
    return sound[:, : subframes * SUBFRAME_SAMPLES], sound[:, subframes * SUBFRAME_SAMPLES :].clone()


def mel_edges_hz() -> NDArray[np.float64]:
    """Edges of 80 Slaney filters, 0 to 8 kHz: filter m rises from [m] to [m + 1] and falls to [m + 2]."""
    linear_hz, log_step = 200 / 3, math.log(6.4) / 27
    top = 15 + math.log(MODEL_HZ / 2 / 1000) / log_step
    mel = np.linspace(0, top, MELS + 2)
    return np.where(mel < 15, mel * linear_hz, 1000 * np.exp(log_step * (mel - 15)))


def _log_filter() -> NDArray[np.float32]:
    """[80, 2 K]: from log10 mels to the log gain and the minimum phase at every bin.

    The log gain is interpolated between the filters' centres. A minimum phase is the Hilbert transform of the
    log gain, by the folded cepstrum (Oppenheim and Schafer, Discrete-Time Signal Processing, 13.5).
    """
    finer = 8  # a finer grid keeps the cepstrum from wrapping
    grid_hz = np.arange(finer * FFT // 2 + 1) * MODEL_HZ / (finer * FFT)
    log_gain = np.stack([np.interp(grid_hz, mel_edges_hz()[1:-1], row) for row in np.eye(MELS)])
    cepstrum = np.fft.irfft(log_gain * math.log(10), axis=1)
    cepstrum[:, 1 : finer * FFT // 2] *= 2
    cepstrum[:, finer * FFT // 2 + 1 :] = 0
    response = np.fft.rfft(cepstrum, axis=1)[:, ::finer]
    return np.concatenate((response.real, response.imag), 1).astype(np.float32)


def _harmonic_share() -> NDArray[np.float32]:
    """[K], amplitude of the harmonics in a voiced sound."""
    hz = np.arange(BINS) * MODEL_HZ / FFT
    return np.interp(hz, [_HARMONIC_UNTIL_HZ, _NOISE_FROM_HZ], [1.0, _NOISY_TOP]).astype(np.float32)


def _noise(window: Tensor) -> Tensor:
    """Spectra [turns, 16, K] of windowed unit-power noise that closes on itself."""
    samples = np.random.default_rng(1).standard_normal(_NOISE_TURNS * SUBFRAMES_PER_TURN * SUBFRAME_SAMPLES)
    loop = torch.from_numpy(samples.astype(np.float32))
    pieces = torch.cat((loop, loop[:SUBFRAME_SAMPLES])).unfold(0, 2 * SUBFRAME_SAMPLES, SUBFRAME_SAMPLES)
    spectra = torch.fft.rfft(pieces * window, FFT)
    spectra[:, 0] = 0  # no direct current
    return spectra.view(_NOISE_TURNS, SUBFRAMES_PER_TURN, BINS)
