"""What came back of what we said, and when: delay, growth and gaps of an echoing call.

The sent and the received audio are two sample timelines; every packet ties a stretch of one to a time on
the wall. Windows of 400 ms of what was sent are looked for in what came back by normalised
cross-correlation. The delay of a window is the time at which its samples arrived less the time at which
the same samples left. One rule: samples are aligned on the timelines of RTP, times are read off the
packets, and the two are never mixed.

    time of a sample = time of its packet + its offset in the packet / rate     (both ways)

Knows arrays only. An hour's call is analysed after it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.caller.codec import CLOCK_HZ, Codec
from media.rtp import (
    BadPacket,
    JitterEstimator,
    RtpPacket,
    parse_packet,
    sequence_unwrapper,
    timestamp_unwrapper,
)

Samples = NDArray[np.int16]
Times = NDArray[np.int64]
Real = NDArray[np.float64]

WINDOW_MS, HOP_MS, FRAME_MS = 400, 200, 20
# One speaker's digits, 400 ms against 5 s of other digits of his: the best score by chance has a median of
# 0.23, a 99th percentile of 0.57 and a maximum of 0.80 (1,153 windows). An echo through two G.711 codecs
# scores over 0.95.
NEAR_SCORE = 0.6  # near the last lag less is left to chance, and a window with a hole in it should be found
FAR_SCORE = 0.85  # anywhere else
EQUAL_SCORE = 0.03  # two codings of the same sound differ by less
SAME_MS = 120  # peaks closer than this are one sound and its pitch periods
NEAR_MS = 60
MAX_DELAY_MS = 5000
ACTIVE_BELOW_LOUD = 0.05  # a frame is active within 26 dB of the loud ones (95th percentile)
ACTIVE_RMS = 30.0  # and above about -60 dB of full scale
FRAME_SCORE, FRAME_POWER = 0.4, 0.01  # a frame is back if it resembles what was sent and lost < 20 dB
FRAME_SEARCH_MS = 10  # re-clocking may move a frame inside its window
_REANCHOR_S = 3.0  # a time stamp this far from what arrival says starts a new piece


@dataclass(frozen=True, slots=True)
class SentAudio:
    """The timeline as it left. Packet i carries samples [i * packet_samples, (i + 1) * packet_samples)."""

    pcm: Samples
    rate_hz: int
    packet_samples: int
    sent_ns: Times  # [packets]
    carried: NDArray[np.bool_]  # [packets]: it left, and with audio


@dataclass(frozen=True, slots=True)
class ReceivedAudio:
    """The timeline as it came: zeros where nothing did. Packet arrays are sorted by position."""

    pcm: Samples
    rate_hz: int
    start: Times  # [packets] first sample
    size: Times  # [packets] samples
    arrival_ns: Times  # [packets]
    packets: int  # of our payload type, duplicates included
    lost: int
    duplicates: int
    reordered: int
    other: int  # not RTP, RTCP, or another payload type
    jitter_ms: float  # at the end, RFC 3550
    longest_silence_ms: float  # between two packets' arrivals


@dataclass(frozen=True, slots=True)
class Windows:
    """What was found, one entry per window that was matched, and the gaps."""

    sent_ns: Times  # when the window began to leave
    delay_ms: Real
    score: Real
    judged: int  # windows that could have been back
    active_ms: float  # of sent audio in judged windows
    gap_ms: float  # of it that did not come back
    gap_starts_ns: Times  # send times of 20 ms frames that did not come back


def received_audio(
    datagrams: Sequence[bytes], arrivals_ns: Sequence[int], payload_type: int, codec: Codec
) -> ReceivedAudio:
    """Lay datagrams on a timeline by their RTP time stamps; another SSRC or a leap of the time stamp is
    laid on by arrival. The first copy of a duplicate counts. Bad bytes are counted, never raised."""
    pieces = _Pieces(codec)
    other = 0
    for datagram, arrival_ns in zip(datagrams, arrivals_ns, strict=True):
        packet = parse_packet(datagram)
        if isinstance(packet, BadPacket) or not packet.payload:
            other += 1
        elif packet.payload_type != payload_type:
            other += 1
            pieces.pass_over(packet)
        else:
            pieces.add(packet, arrival_ns)
    return pieces.finish(other)


class _Pieces:
    """Builds a ReceivedAudio packet by packet, in order of arrival."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._ssrc: int | None = None
        self._first_ns = 0
        self._base_tick = 0  # of the piece, on the timeline
        self._end_tick = 0
        self._seen: set[int] = set()
        self._highest = 0
        self._rows: list[tuple[int, int, int, bytes]] = []  # tick, arrival, order of decoding, payload
        self._order_base = 0
        self._lost = self._duplicates = self._reordered = 0
        self._jitter = JitterEstimator(CLOCK_HZ)

    def add(self, packet: RtpPacket, arrival_ns: int) -> None:
        if self._ssrc is None:
            self._first_ns = arrival_ns
        expected_tick = (arrival_ns - self._first_ns) * CLOCK_HZ // 1_000_000_000
        if packet.ssrc != self._ssrc:
            self._begin(packet, expected_tick)
        tick = self._base_tick + self._stamps.unwrap(packet.timestamp) - self._first_stamp
        if abs(tick - expected_tick) > _REANCHOR_S * CLOCK_HZ:
            self._begin(packet, expected_tick)
            tick = self._base_tick + self._stamps.unwrap(packet.timestamp) - self._first_stamp
        number = self._numbers.unwrap(packet.sequence)
        if number in self._seen:
            self._duplicates += 1
            return
        self._reordered += bool(self._seen) and number < self._highest
        self._highest = max(self._highest, number) if self._seen else number
        self._seen.add(number)
        self._jitter.update(arrival_ns, tick)
        self._rows.append((tick, arrival_ns, self._order_base + number, packet.payload))
        self._end_tick = max(self._end_tick, tick + len(packet.payload))

    def pass_over(self, packet: RtpPacket) -> None:
        """Another payload type in the same stream, such as a telephone event: its number is not lost."""
        if packet.ssrc == self._ssrc:
            number = self._numbers.unwrap(packet.sequence)
            self._highest = max(self._highest, number)
            self._seen.add(number)

    def _begin(self, packet: RtpPacket, expected_tick: int) -> None:
        self._close_piece()
        self._ssrc = packet.ssrc
        self._base_tick = max(expected_tick, self._end_tick)
        self._stamps, self._numbers = timestamp_unwrapper(), sequence_unwrapper()
        self._first_stamp = packet.timestamp
        self._seen = set()

    def _close_piece(self) -> None:
        if self._seen:
            self._lost += max(self._seen) - min(self._seen) + 1 - len(self._seen)
            self._order_base += max(self._seen) + (1 << 17)  # later pieces are decoded later

    def finish(self, other: int) -> ReceivedAudio:
        self._close_piece()
        arrivals = np.array([row[1] for row in self._rows], dtype=np.int64)
        silence_ms = float(np.diff(np.sort(arrivals)).max()) / 1e6 if arrivals.size > 1 else 0.0
        scale = self._codec.samples_per_tick
        rows = sorted(self._rows, key=lambda row: row[2])
        decoded = self._codec.decode(b"".join(row[3] for row in rows))
        first_tick = min((row[0] for row in rows), default=0)  # a packet may have overtaken the first
        pcm = np.zeros((self._end_tick - first_tick) * scale, dtype=np.int16)
        start = np.array([row[0] - first_tick for row in rows], dtype=np.int64) * scale
        size = np.array([len(row[3]) for row in rows], dtype=np.int64) * scale
        offset = 0
        for begin, length in zip(start.tolist(), size.tolist(), strict=True):
            part = decoded[offset : offset + length]
            pcm[begin : begin + part.size] = part
            offset += length
        by_position = np.argsort(start, kind="stable")
        return ReceivedAudio(
            pcm=pcm,
            rate_hz=self._codec.rate_hz,
            start=start[by_position],
            size=size[by_position],
            arrival_ns=np.array([row[1] for row in rows], dtype=np.int64)[by_position],
            packets=len(rows) + self._duplicates,
            lost=self._lost,
            duplicates=self._duplicates,
            reordered=self._reordered,
            other=other,
            jitter_ms=self._jitter.jitter_ms,
            longest_silence_ms=silence_ms,
        )


def find_windows(sent: SentAudio, received: ReceivedAudio, listened_until_ns: int) -> Windows:
    """Find every active window of `sent` in `received`. Windows too young to be back are not judged.

    Both must have the same rate; otherwise ValueError.
    """
    if sent.rate_hz != received.rate_hz:
        raise ValueError(f"sent at {sent.rate_hz} Hz but received at {received.rate_hz} Hz")
    return _Search(sent, received).run(listened_until_ns)


class _Search:
    """The two timelines, and the lag at which the last window was found."""

    def __init__(self, sent: SentAudio, received: ReceivedAudio) -> None:
        self._rate = sent.rate_hz
        self._sent = sent
        self._received = received
        usable = min(sent.sent_ns.size * sent.packet_samples, sent.pcm.size)
        self._tx: Real = sent.pcm[:usable].astype(np.float64)
        self._rx: Real = received.pcm.astype(np.float64)
        self._rx_power: Real = np.concatenate(([0.0], np.cumsum(self._rx**2)))
        # Reordered packets make arrival times fall; bounds that do not are what a binary search needs.
        self._latest_ns = np.maximum.accumulate(received.arrival_ns)
        self._earliest_ns = np.minimum.accumulate(received.arrival_ns[::-1])[::-1]
        self._frame = self._rate * FRAME_MS // 1000
        self._window = self._rate * WINDOW_MS // 1000
        self._active = self._active_frames()
        self._lag: int | None = None

    def _active_frames(self) -> NDArray[np.bool_]:
        """[frames]: loud enough to be told from silence, and really sent."""
        count = self._tx.size // self._frame
        if count == 0:
            return np.zeros(0, dtype=np.bool_)
        rms = np.sqrt(np.mean(self._tx[: count * self._frame].reshape(count, self._frame) ** 2, axis=1))
        loud = rms[rms > ACTIVE_RMS]
        floor = max(ACTIVE_RMS, ACTIVE_BELOW_LOUD * float(np.percentile(loud, 95))) if loud.size else np.inf
        packet = np.arange(count) * self._frame // self._sent.packet_samples
        active: NDArray[np.bool_] = (rms > floor) & self._sent.carried[packet]
        return active

    def run(self, listened_until_ns: int) -> Windows:
        per_window, per_hop = WINDOW_MS // FRAME_MS, HOP_MS // FRAME_MS
        found: list[tuple[int, int, float, float]] = []  # first frame, lag, delay, score
        starts: list[int] = []
        for first in range(0, self._active.size - per_window + 1, per_hop):
            if self._active[first : first + per_window].sum() * 4 < per_window:
                continue
            starts.append(first)
            match = self._find(first * self._frame)
            if match is not None:
                lag, score = match
                delay = self._delay_ms(first, lag)
                if delay is not None:
                    self._lag = lag
                    found.append((first, lag, delay, score))
        last_delay_ns = int(found[-1][2] * 1e6) if found else 0
        judged = [
            first
            for first in starts
            if self._sent_time(first * self._frame) + last_delay_ns + (WINDOW_MS + 100) * 1_000_000
            <= listened_until_ns
        ]
        gaps, active = self._gaps(judged, {row[0]: row[1] for row in found})
        return Windows(
            sent_ns=np.array([self._sent_time(row[0] * self._frame) for row in found], dtype=np.int64),
            delay_ms=np.array([row[2] for row in found], dtype=np.float64),
            score=np.array([row[3] for row in found], dtype=np.float64),
            judged=len(judged),
            active_ms=float(active * FRAME_MS),
            gap_ms=float(len(gaps) * FRAME_MS),
            gap_starts_ns=np.array([self._sent_time(f * self._frame) for f in gaps], dtype=np.int64),
        )

    # -- times

    def _sent_time(self, sample: int) -> int:
        packet, offset = divmod(sample, self._sent.packet_samples)
        return int(self._sent.sent_ns[packet]) + offset * 1_000_000_000 // self._rate

    def _delay_ms(self, first: int, lag: int) -> float | None:
        """Median over the window's active frames, at their centres, of arrival less departure."""
        frames = first + np.flatnonzero(self._active[first : first + WINDOW_MS // FRAME_MS])
        sample = frames * self._frame + self._frame // 2
        back = sample + lag
        packet = np.searchsorted(self._received.start, back, side="right") - 1
        there = packet >= 0
        offset = back - self._received.start[packet]
        there &= offset < self._received.size[packet]
        if not there.any():
            return None
        arrived = self._received.arrival_ns[packet] + offset * 1_000_000_000 // self._rate
        sent_packet, sent_offset = np.divmod(sample, self._sent.packet_samples)
        left = self._sent.sent_ns[sent_packet] + sent_offset * 1_000_000_000 // self._rate
        return float(np.median((arrived - left)[there])) / 1e6

    # -- correlation

    def _find(self, start: int) -> tuple[int, float] | None:
        """Lag in samples and score of the best match of the window at `start`, or None."""
        template = self._tx[start : start + self._window]
        near = None
        if self._lag is not None:
            reach = NEAR_MS * self._rate // 1000
            low = start + self._lag - reach
            near = self._best(template, low, low + 2 * reach + self._window)
        if near is None or near[1] < FAR_SCORE:
            far = self._best(template, *self._plausible(start))
            if far is not None and far[1] >= FAR_SCORE:
                return far[0] - start, far[1]
        return (near[0] - start, near[1]) if near is not None and near[1] >= NEAR_SCORE else None

    def _plausible(self, start: int) -> tuple[int, int]:
        """The received samples that arrived between the window's departure and MAX_DELAY_MS after it."""
        left_ns = self._sent_time(start)
        first = int(np.searchsorted(self._latest_ns, left_ns))
        until_ns = left_ns + (MAX_DELAY_MS + WINDOW_MS) * 1_000_000
        last = int(np.searchsorted(self._earliest_ns, until_ns, side="right")) - 1
        if first >= self._received.start.size or last < first:
            return 0, 0
        return int(self._received.start[first]), int(self._received.start[last] + self._received.size[last])

    def _best(self, template: Real, low: int, high: int) -> tuple[int, float] | None:
        """Position and normalised correlation of the best match within received samples [low, high)."""
        low, high = max(low, 0), min(high, self._rx.size)
        count = high - low - template.size + 1
        if count <= 0:
            return None
        length = _fast_length(high - low)
        spectrum = np.fft.rfft(self._rx[low:high], length) * np.conj(np.fft.rfft(template, length))
        product = np.fft.irfft(spectrum, length)[:count]
        power = float(template @ template)
        ends = self._rx_power[low + template.size : high + 1]
        energy = ends - self._rx_power[low : low + count]
        # The floor keeps near silence from scoring: an echo may lose 30 dB and no more.
        score = product / np.sqrt(np.maximum(energy, 1e-3 * power) * power)
        # Of equals the first: a sound file that is played in a loop comes back more than once. The best of
        # its neighbourhood, since a vowel is nearly its own equal one pitch period on.
        first = int(np.argmax(score >= float(score.max()) - EQUAL_SCORE))
        best = first + int(np.argmax(score[first : first + self._rate * SAME_MS // 1000]))
        return low + best, float(score[best])

    # -- gaps

    def _gaps(self, judged: list[int], lags: dict[int, int]) -> tuple[list[int], int]:
        """Frames that came back at the lag of none of the windows around them, and how many were judged."""
        per_window, per_hop = WINDOW_MS // FRAME_MS, HOP_MS // FRAME_MS
        frames = sorted({f for first in judged for f in range(first, first + per_window) if self._active[f]})
        gaps = []
        for frame in frames:
            hop = frame // per_hop * per_hop
            around = {lags[w] for w in range(hop - 2 * per_hop, hop + 2 * per_hop + 1, per_hop) if w in lags}
            if not any(self._is_back(frame, lag) for lag in around):
                gaps.append(frame)
        return gaps, len(frames)

    def _is_back(self, frame: int, lag: int) -> bool:
        """Whether one sent frame is heard at a lag, give or take FRAME_SEARCH_MS."""
        sent = self._tx[frame * self._frame : (frame + 1) * self._frame]
        begin = frame * self._frame + lag
        power = float(sent @ sent)
        if begin < 0 or begin + self._frame > self._rx.size:
            return False
        back = self._rx[begin : begin + self._frame]
        energy = float(back @ back)
        if energy > FRAME_POWER * power and float(sent @ back) > FRAME_SCORE * np.sqrt(energy * power):
            return True
        reach = FRAME_SEARCH_MS * self._rate // 1000
        best = self._best(sent, begin - reach, begin + self._frame + reach)
        if best is None or best[1] < FRAME_SCORE:
            return False
        energy = float(self._rx_power[best[0] + self._frame] - self._rx_power[best[0]])
        return energy > FRAME_POWER * power


def _fast_length(size: int) -> int:
    """The next 2**n or 3 * 2**n, at which a Fourier transform is quick."""
    power = 1 << max(size - 1, 1).bit_length()
    return 3 * power // 4 if 3 * power // 4 >= size else power
