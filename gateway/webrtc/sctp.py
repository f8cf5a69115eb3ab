"""The SCTP of a data channel: aiortc's, behind a door.

aiortc believes its peer. One packet with a parameter of length 0 would keep the loop for ever, one SACK with wide
gap blocks for seconds, and DATA that leaves gaps, or messages and streams without end, would be held without bound
(aiortc 1.16.0, `rtcsctptransport.py`). So a packet is measured here first. What is refused is a lost packet to
SCTP: a peer that keeps to RFC 9260 and to our channel's few messages never notices.

Of aiortc's `RTCSctpTransport` these names are private, held by tests/gateway/webrtc/test_sctp.py:

    _handle_data, _association_state and State, _last_received_tsn, _inbound_streams (and their reassembly),
    _sack_misordered, _data_channels
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
from aiortc import RTCSctpTransport

log = structlog.get_logger()

MAX_PACKET_BYTES: Final = 1400
"""What our side can answer in one DTLS record; browsers send at most 1,200."""
CHUNKS_PER_S: Final = 500
"""Ten messages a second are taken, and what SCTP needs beside them; a bundle has up to 80 chunks."""
TSN_WINDOW: Final = 128
"""How far DATA may be ahead of what is missing."""
MAX_HELD: Final = 256
"""Fragments of messages that are not whole: 64 KiB, the longest message that we offer to take, are 57."""
MAX_STREAMS: Final = 64
MAX_GAP: Final = 4096
"""Of what we sent and is not acknowledged; we owe at most 64 KiB."""

_HEADER_BYTES: Final = 12
_CHUNK: Final = struct.Struct("!BBH")
_PAIR: Final = struct.Struct("!HH")
_COUNTS: Final = struct.Struct("!LLHH")
_TSN: Final = struct.Struct("!L")
DATA, INIT, INIT_ACK, SACK, SHUTDOWN, RECONFIG, FORWARD_TSN = 0, 1, 2, 3, 7, 130, 192
LEAST_BODY: Final = {DATA: 13, INIT: 16, INIT_ACK: 16, SACK: 12, SHUTDOWN: 4, FORWARD_TSN: 4}
PARAMETERS_AT: Final = {INIT: 16, INIT_ACK: 16, 4: 0, 5: 0, 6: 0, 9: 0, RECONFIG: 0}
"""Where the parameters or causes of a chunk begin; HEARTBEAT, its answer, ABORT and ERROR have nothing else."""
LEAST_RESET: Final = {13: 12, 16: 8, 17: 8}
"""Of the RE-CONFIG parameters that aiortc reads (RFC 6525 4)."""
NEEDS_ASSOCIATION: Final = (DATA, SACK, SHUTDOWN, RECONFIG, FORWARD_TSN)

Chunk = tuple[int, bytes]
"""Type and body."""


def split(packet: bytes) -> list[Chunk] | None:
    """The chunks of a packet (RFC 9260 3); None when one of them is not as its type has to be. Never raises."""
    chunks = list(_chunks(packet))
    if not chunks or any(not _is_sound(kind, body) for kind, body in chunks):
        return None
    if len(chunks) > 1 and any(kind == INIT for kind, _ in chunks):
        return None
    return chunks


def _chunks(packet: bytes) -> Iterator[Chunk]:
    """As far as they are whole; a last one of type -1 stands for what is not."""
    at = _HEADER_BYTES
    while at + _CHUNK.size <= len(packet):
        kind, _, length = _CHUNK.unpack_from(packet, at)
        if length < _CHUNK.size or at + length > len(packet):
            yield -1, b""
            return
        yield kind, packet[at + _CHUNK.size : at + length]
        at += length + -length % 4


def _is_sound(kind: int, body: bytes) -> bool:
    if kind < 0 or len(body) < LEAST_BODY.get(kind, 0):
        return False
    if kind == SACK:
        return _is_sound_sack(body)
    if kind == FORWARD_TSN:
        return len(body) % 4 == 0
    begin = PARAMETERS_AT.get(kind)
    return begin is None or _are_sound_parameters(kind, body[begin:])


def _is_sound_sack(body: bytes) -> bool:
    _, _, gaps, duplicates = _COUNTS.unpack_from(body)
    if _COUNTS.size + 4 * (gaps + duplicates) > len(body):
        return False
    blocks = [_PAIR.unpack_from(body, _COUNTS.size + 4 * index) for index in range(gaps)]
    return all(0 < begin <= end for begin, end in blocks) and _width(blocks) <= MAX_GAP


def _width(blocks: list[Any]) -> int:
    return sum(end - begin + 1 for begin, end in blocks)


def _are_sound_parameters(kind: int, body: bytes) -> bool:
    at = 0
    while at + _PAIR.size <= len(body):
        name, length = _PAIR.unpack_from(body, at)
        if length < _PAIR.size or at + length > len(body):
            return False
        inside = length - _PAIR.size
        if kind == RECONFIG and (inside < LEAST_RESET.get(name, 0) or (name == 13 and inside % 2)):
            return False
        at += length + -length % 4
    return True


class Sctp(RTCSctpTransport):
    """aiortc's, with bounds. `refused` is told of a packet that was not taken, and of one that it failed on."""

    def __init__(self, transport: Any, refused: Callable[[], None], failed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._refused, self._failed = refused, failed
        self._allowance, self._allowed_at_s = float(CHUNKS_PER_S), time.monotonic()
        self._has_failed = False

    async def _handle_data(self, data: bytes) -> None:
        if not self._admits(data):
            self._refused()
            return
        try:
            await super()._handle_data(data)
        except ConnectionError:
            raise
        except Exception as wrong:  # the edge of a call: its peer's packet, and aiortc's assertions about it
            self._failed()
            if not self._has_failed:
                log.warning("SCTP packet failed", reason=f"{type(wrong).__name__}: {wrong}"[:200])
            self._has_failed = True

    def _admits(self, data: bytes) -> bool:
        chunks = split(data) if len(data) <= MAX_PACKET_BYTES else None
        return chunks is not None and self._is_in_time(len(chunks)) and self._fits(chunks)

    def _fits(self, chunks: list[Chunk]) -> bool:
        """Whether the association is where these chunks belong, and has room for them."""
        last = self._last_received_tsn
        kinds = {kind for kind, _ in chunks}
        if last is None:
            return kinds.isdisjoint(NEEDS_ASSOCIATION)
        if INIT in kinds:
            return self._association_state != self.State.ESTABLISHED
        streams: set[int] = set()
        for kind, body in chunks:
            if kind == DATA:
                if not self._has_room_for(_TSN.unpack_from(body)[0], last):
                    return False
                streams.add(int.from_bytes(body[4:6], "big"))
            elif kind == FORWARD_TSN:
                streams.update(int.from_bytes(body[at : at + 2], "big") for at in range(4, len(body), 4))
        return not streams or self._has_streams_for(streams)

    def _has_room_for(self, tsn: int, last: int) -> bool:
        ahead = (tsn - last) & 0xFFFFFFFF
        if ahead == 0 or ahead >= 1 << 31:  # a duplicate, which is acknowledged once more
            return True
        if ahead > TSN_WINDOW or (ahead > 1 and len(self._sack_misordered) >= TSN_WINDOW):
            return False
        return sum(len(stream.reassembly) for stream in self._inbound_streams.values()) < MAX_HELD

    def _has_streams_for(self, streams: set[int]) -> bool:
        if streams <= self._inbound_streams.keys():
            return True
        known = self._inbound_streams.keys() | self._data_channels.keys()
        return len(known | streams) <= MAX_STREAMS

    def _is_in_time(self, chunks: int) -> bool:
        """A bucket of `CHUNKS_PER_S` that fills in a second."""
        now_s = time.monotonic()
        gained = (now_s - self._allowed_at_s) * CHUNKS_PER_S
        self._allowance = min(float(CHUNKS_PER_S), self._allowance + gained)
        self._allowed_at_s = now_s
        if self._allowance < chunks:
            return False
        self._allowance -= chunks
        return True
