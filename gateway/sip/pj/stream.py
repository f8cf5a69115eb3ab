"""A call's stream: pjmedia keeps RTP, order and codecs, we say when and how much.

What comes in is pulled when a chunk is cut. pjmedia's conference bridge would take a frame every 20 ms, and its
jitter buffer gives delay back far too slowly (`gateway/sip/options.py` has the figures). So nobody listens to the
stream on the bridge, and its jitter buffer is no more than an ordered store.

While a person has joined a caller (`gateway/sip/joining.py`), both their streams are pulled by the clock instead,
frame by frame.

What goes out is pushed, every 20 ms, by the worker's `metronome`, in the clock's thread; all else here belongs to
the thread that owns the library. There streams are made and destroyed, too, and one must not be destroyed while
it is pushed to: see `metronome` for the rule.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from gateway.sip.pj.pjmedia import ROOM_BYTES, STORE_FRAME_MS, Pjmedia, StoreState
from media.chunk import PCM
from media.resample import Resampler
from media.timebase import FRAME_MS, samples_of


class Negotiated(NamedTuple):
    """What one `get` gives and one `put` takes."""

    rate_hz: int
    packet_ms: int
    """The peer's `a=ptime`, else the codec's: a multiple of `STORE_FRAME_MS`."""


class Stream:
    """One negotiated stream, from its making to its end, in frames of 20 ms at `rate_hz`."""

    def __init__(
        self, pjmedia: Pjmedia, port: int, stream: int, index: int, rate_hz: int, negotiated: Negotiated
    ) -> None:
        self.index = index
        self._pjmedia, self._port, self._stream = pjmedia, port, stream
        self._packet_ms = negotiated.packet_ms
        self._bytes = 2 * samples_of(negotiated.packet_ms, negotiated.rate_hz)
        assert self._packet_ms and not self._packet_ms % STORE_FRAME_MS, f"packets of {self._packet_ms} ms"
        assert self._bytes <= ROOM_BYTES, f"packets of {self._bytes} octets"
        self._is_plain = negotiated == (rate_hz, FRAME_MS)
        self._up, self._down = Resampler(negotiated.rate_hz, rate_hz), Resampler(rate_hz, negotiated.rate_hz)
        self._pieces: deque[PCM | None] = deque()  # of STORE_FRAME_MS, less than a packet and a frame
        self._unsent = b""  # less than a packet
        self._nothing_ms = 0
        pjmedia.keep(port)
        pjmedia.get(port, stream, self._bytes)  # the first empties the store ("soft start") and gives nothing

    def close(self) -> None:
        """Nobody pulls or pushes any more."""
        self._pjmedia.let_go(self._port)

    def is_of(self, stream: int) -> bool:
        """Whether the library's stream is this one."""
        return self._stream == stream

    # -- what comes in

    def waiting_ms(self, state: StoreState) -> int:
        """Of sound that can be pulled: of a packet that is not whole yet, a `get` would make the rest up."""
        if self._is_plain:
            return state.size * STORE_FRAME_MS
        stored_ms = state.size * STORE_FRAME_MS
        return stored_ms - stored_ms % self._packet_ms + len(self._pieces) * STORE_FRAME_MS

    def state(self, reader: Pjmedia | None = None) -> StoreState:
        """How much waits in the library, and what has gone wrong. Another thread has a `reader` of its own."""
        return (reader or self._pjmedia).state(self._stream)

    def pull(self, reader: Pjmedia | None = None) -> PCM | None:
        """The oldest 20 ms, int16; None where there should be some. One thread at a time."""
        if self._is_plain:
            pcm = (reader or self._pjmedia).get(self._port, self._stream, self._bytes)
            return None if pcm is None else np.frombuffer(pcm, np.int16)
        while len(self._pieces) < FRAME_MS // STORE_FRAME_MS:
            self._pieces.extend(self._get(reader or self._pjmedia))
        pieces = [self._pieces.popleft() for _ in range(FRAME_MS // STORE_FRAME_MS)]
        heard = [piece for piece in pieces if piece is not None]
        return np.concatenate(heard) if len(heard) == len(pieces) else None

    def _get(self, reader: Pjmedia) -> list[PCM | None]:
        """A packet, in the store's frames."""
        count = self._packet_ms // STORE_FRAME_MS
        packet = reader.get(self._port, self._stream, self._bytes)
        if packet is None:
            return [None] * count
        return list(self._up.push(np.frombuffer(packet, np.int16)).reshape(count, -1))

    # -- what goes out, in the clock's thread

    def push(self, pcm: bytes) -> None:
        """The next 20 ms, int16."""
        if self._is_plain:
            self._pjmedia.put(self._port, pcm)
            return
        self._unsent += self._down.push(np.frombuffer(pcm, np.int16)).tobytes()
        while len(self._unsent) >= self._bytes:
            packet, self._unsent = self._unsent[: self._bytes], self._unsent[self._bytes :]
            self._pjmedia.put(self._port, packet)

    def push_nothing(self) -> None:
        """20 ms pass without sound."""
        self._unsent = b""
        self._nothing_ms += FRAME_MS
        while self._nothing_ms >= self._packet_ms:
            self._nothing_ms -= self._packet_ms
            self._pjmedia.put_nothing(self._port)
