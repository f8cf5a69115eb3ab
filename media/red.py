"""Redundant audio: one RTP payload that carries the packets before it once more (RFC 2198).

    1 | payload type: 7 | time stamp offset: 14 | length: 10     of each older block
    0 | payload type: 7                                          of the newest one, whose length is what is left

Bytes from a peer never raise. Its one rule: what does not fit exactly is no payload at all.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_BLOCKS = 8
MAX_OFFSET, MAX_LENGTH = (1 << 14) - 1, (1 << 10) - 1
_HEADER = struct.Struct("!I")


class Block(NamedTuple):
    """One packet's payload, so many steps of the sequence and ticks of the clock before the RTP packet's own."""

    behind: int
    offset: int
    payload: bytes


def parse_red(data: bytes, payload_type: int) -> list[Block] | None:
    """The blocks of `payload_type`, oldest first, the newest last; None when it is malformed or has no newest.

    RED has no sequence numbers: blocks are taken to be of consecutive packets, as every sender makes them.
    """
    sizes: list[tuple[int, int, int]] = []
    at = 0
    while at < len(data) and data[at] & 0x80:
        if len(sizes) == MAX_BLOCKS or at + 4 > len(data):
            return None
        (word,) = _HEADER.unpack_from(data, at)
        sizes.append((word >> 24 & 0x7F, word >> 10 & MAX_OFFSET, word & MAX_LENGTH))
        at += 4
    if at >= len(data) or data[at] != payload_type:
        return None
    at += 1
    if at + sum(length for _, _, length in sizes) > len(data):
        return None
    blocks = []
    for number, (kind, offset, length) in enumerate(sizes):
        if kind == payload_type and length and offset:
            blocks.append(Block(len(sizes) - number, offset, data[at : at + length]))
        at += length
    return [*blocks, Block(0, 0, data[at:])]


def pack_red(payload_type: int, newest: bytes, before: bytes = b"", offset: int = 0) -> bytes:
    """`newest` with the payload before it, `offset` ticks older, which is left out where it does not fit."""
    if not before or not 0 < offset <= MAX_OFFSET or len(before) > MAX_LENGTH:
        return bytes([payload_type]) + newest
    word = 1 << 31 | payload_type << 24 | offset << 10 | len(before)
    return _HEADER.pack(word) + bytes([payload_type]) + before + newest
