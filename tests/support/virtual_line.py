"""A packet sender, a network and a clock that cuts, all in virtual time and seeded."""

from __future__ import annotations

import ctypes
import functools
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from media.chunker import Cut
from media.codecs import opus
from media.codecs.opus import OpusDecoder, OpusEncoder
from media.jitter import PLAY_MS, JitterBuffer
from media.sound import Decoder
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS

SPEECH = Path(__file__).parents[2].parent / "shared/data/speech/connected_digits"  # beside the checkout
RATE, CLOCK = 16_000, 48_000
TURN = RATE // 5
FRAME, TICKS = RATE // 50, CLOCK // 50
PATH_NS = 40 * NS_PER_MS
"""One way, before jitter."""
OFFSET_NS = 7 * NS_PER_MS
"""Of our cuts against the sender's packets."""
FLOOR_MS = 4 + 20 + PLAY_MS
"""Guard, a packet's length of phase, and what is left alone: a steady line is never cut older than this."""
needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason=f"no recorded speech at {SPEECH}")


@functools.cache
def speech(seconds: float) -> np.ndarray:
    """int16 at 16 kHz: people reading digits, file after file."""
    import soundfile

    parts: list[np.ndarray] = []
    for path in sorted(SPEECH.glob("*.flac")):
        parts.append(soundfile.read(path, dtype="int16")[0])
        if sum(map(len, parts)) >= seconds * RATE:
            break
    return np.concatenate(parts)[: int(seconds * RATE)]


@functools.cache
def spoken(seconds: float, *, fec: bool = False) -> tuple[bytes, ...]:
    """That speech in packets of 20 ms."""
    encoder = OpusEncoder(RATE)
    if fec:
        encoder.tune(10.0, 32_000, 0)
    pcm = speech(seconds)
    return tuple(encoder.encode(pcm[at : at + FRAME]) for at in range(0, len(pcm) - FRAME + 1, FRAME))


def packed(payloads: tuple[bytes, ...], frames: int) -> list[bytes]:
    """Packets of 20 ms made into packets of `frames` of them, by libopus's own repacketizer."""
    lib = opus.library()
    lib.opus_repacketizer_create.restype = ctypes.c_void_p
    lib.opus_repacketizer_init.argtypes = lib.opus_repacketizer_destroy.argtypes = [ctypes.c_void_p]
    lib.opus_repacketizer_cat.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32]
    lib.opus_repacketizer_out.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32]
    joiner, out, made = lib.opus_repacketizer_create(), ctypes.create_string_buffer(8_000), []
    for start in range(0, len(payloads) - frames + 1, frames):
        lib.opus_repacketizer_init(joiner)
        kept = payloads[start : start + frames]  # the repacketizer points into them
        assert all(lib.opus_repacketizer_cat(joiner, part, len(part)) == 0 for part in kept)
        size = lib.opus_repacketizer_out(joiner, out, 8_000)
        assert size > 0
        made.append(out.raw[:size])
    lib.opus_repacketizer_destroy(joiner)
    return made


class CountingDecoder:
    """No codec: a payload says how many samples it is, each sample which packet; 0 is concealment."""

    def decode(self, payload: bytes) -> np.ndarray:
        return np.full(self.duration(payload), 1 + int.from_bytes(payload[2:], "big") % 30_000, np.int16)

    def recover(self, following: bytes, samples: int) -> np.ndarray:
        return np.zeros(samples, np.int16)

    def conceal(self, samples: int) -> np.ndarray:
        return np.zeros(samples, np.int16)

    def duration(self, payload: bytes) -> int:
        return int.from_bytes(payload[:2], "big")

    def recoverable(self, payload: bytes) -> int:
        return 0

    def is_pause(self, payload: bytes) -> bool:
        return False


def numbered(index: int, samples: int = FRAME) -> bytes:
    """A payload for `CountingDecoder`."""
    return samples.to_bytes(2, "big") + index.to_bytes(4, "big")


NUMBERS = [numbered(index) for index in range(30_000)]


@dataclass(frozen=True)
class Sent:
    """One packet on the wire, and when it comes; None when it never does."""

    sequence: int
    timestamp: int
    payload: bytes
    arrival_ns: int | None
    ssrc: int = 1


def stream(
    payloads: Sequence[bytes],
    count: int,
    *,
    ppm: float = 0.0,
    ticks: int = TICKS,
    sequence: int = 65_500,
    timestamp: int = 2**32 - 50 * TICKS,
    path_ns: int = PATH_NS,
    ssrc: int = 1,
) -> list[Sent]:
    """`count` packets in order on a clean line; both counters wrap within the first second."""
    period_ns = ticks * NS_PER_S / CLOCK / (1 + ppm * 1e-6)
    return [
        Sent(
            (sequence + index) % 2**16,
            (timestamp + index * ticks) % 2**32,
            payloads[index % len(payloads)],
            round(index * period_ns) + path_ns,
            ssrc,
        )
        for index in range(count)
    ]


def lossy(sent: list[Sent], share: float, seed: int, burst: float = 1.0) -> list[Sent]:
    """Packets lost at random, in runs of `burst` on average (Gilbert's model)."""
    rng, out, bad = np.random.default_rng(seed), [], False
    for packet in sent:
        leave = 1 / burst
        bad = bool(rng.random() >= leave) if bad else bool(rng.random() < share * leave / (1 - share))
        if burst == 1.0:
            bad = bool(rng.random() < share)
        out.append(replace(packet, arrival_ns=None) if bad else packet)
    return out


def delayed(sent: list[Sent], extra_ns: Callable[[Sent], float]) -> list[Sent]:
    """Each arrival later by so much."""
    return [
        p if p.arrival_ns is None else replace(p, arrival_ns=p.arrival_ns + int(extra_ns(p))) for p in sent
    ]


def jittery(sent: list[Sent], jitter_ms: float, seed: int) -> list[Sent]:
    """Uniform jitter; packets overtake each other."""
    rng = np.random.default_rng(seed)
    return delayed(sent, lambda _: rng.random() * jitter_ms * NS_PER_MS)


def stalled(sent: list[Sent], from_ns: int, length_ns: int) -> list[Sent]:
    """Nothing comes from `from_ns` on, for `length_ns`; then all of it at once, in order."""
    until = from_ns + length_ns
    return [
        replace(p, arrival_ns=until) if p.arrival_ns is not None and from_ns <= p.arrival_ns < until else p
        for p in sent
    ]


@dataclass
class Listener:
    """Cuts a jitter buffer every 200 ms, and checks its accounts after every cut."""

    decoder: Decoder = field(default_factory=lambda: OpusDecoder(RATE))
    now_ns: int = TURN_NS + PATH_NS + OFFSET_NS - 20 * NS_PER_MS
    cuts: list[Cut] = field(default_factory=list)
    delays_ms: list[float] = field(default_factory=list)
    arrived: int = 0
    said: int = 0
    """Made-up samples, by the cuts."""

    def __post_init__(self) -> None:
        self.buffer = JitterBuffer(self.decoder, RATE, CLOCK)

    @property
    def pcm(self) -> np.ndarray:
        """All that was heard."""
        return np.concatenate([cut.pcm for cut in self.cuts])

    def hear(self, sent: list[Sent], until_ns: int | None = None) -> Listener:
        """All that arrives, in that order, and the cuts between, up to the last, or until then."""
        queue = [(p.arrival_ns, index, p) for index, p in enumerate(sent) if p.arrival_ns is not None]
        heapq.heapify(queue)
        last_ns = until_ns if until_ns is not None else max(at for at, _, _ in queue)
        while self.now_ns <= last_ns:
            self._receive(queue, self.now_ns)
            self.cut()
        self._receive(queue, last_ns)
        self.check()
        return self

    def _receive(self, queue: list[tuple[int, int, Sent]], until_ns: int) -> None:
        while queue and queue[0][0] <= until_ns:
            at, _, p = heapq.heappop(queue)
            self.buffer.receive_packet(p.ssrc, p.sequence, p.timestamp, p.payload, at)
            self.arrived += 1

    def cut(self) -> Cut:
        cut = self.buffer.cut(self.now_ns)
        self.now_ns += TURN_NS
        self.cuts.append(cut)
        self.said += cut.concealed
        self.delays_ms.append(self.buffer.delay_ms)
        assert cut.pcm.shape == (TURN,) and cut.pcm.dtype == np.int16
        assert 0 <= cut.concealed <= TURN and cut.dropped >= 0 and cut.lost >= 0
        self.check()
        return cut

    def check(self) -> None:
        """The two rules of the accounts."""
        p, s, buffer = self.buffer.packets, self.buffer.account, self.buffer
        assert p.received == self.arrived
        named = p.decoded + p.late + p.duplicate + p.malformed + p.undecodable + p.stray + p.skipped
        assert p.received == named + buffer.waiting_packets, p
        made = s.decoded + s.recovered + s.concealed + s.comfort + s.padded + s.stretched
        assert len(self.cuts) * TURN + buffer.waiting == made - s.shortened - s.retracted, s
        assert 0 <= s.concealed - s.retracted - self.said <= buffer.waiting, s


def counting() -> Listener:
    """Whose samples say which packet they are of."""
    return Listener(CountingDecoder())


def lag_samples(heard: np.ndarray, said: np.ndarray, at: int, length: int = RATE // 2) -> tuple[int, float]:
    """By how much `heard` is behind `said` at sample `at` of `heard` (-100 ms..600 ms), and how alike they are."""
    piece = heard[at : at + length].astype(float)
    around = said[at - 9_600 : at + length + 1_600].astype(float)
    products = np.correlate(around, piece, "valid")
    power = np.convolve(around**2, np.ones(length), "valid")
    likeness = products / np.sqrt(power * (piece @ piece) + 1.0)
    best = int(np.argmax(likeness))
    return 9_600 - best, float(likeness[best])
