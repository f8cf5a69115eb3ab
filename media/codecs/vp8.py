"""VP8 out of RTP, RFC 7741: the payload descriptor is taken off, what is behind it is the frame's bytes.

It reads no picture but the first bytes that say whether it is a key frame (RFC 6386 section 9.1).
"""

from __future__ import annotations

from typing import Final

from media.codecs.fragment import Fragment
from media.rtp import BadPacket

_START_CODE: Final = b"\x9d\x01\x2a"  # RFC 6386 section 9.1, bytes 3..5 of a key frame


def parse_payload(payload: bytes) -> Fragment | BadPacket:
    """One RTP payload (RFC 7741 sections 4.2 and 4.3), or why it is none. Never raises."""
    start = _descriptor_bytes(payload)
    if start is None or start >= len(payload):
        return BadPacket("short vp8 payload")
    begins = payload[0] & 0x17 == 0x10  # S set and PID 0: the first packet of a frame
    is_key = begins and not payload[start] & 0x01
    if is_key and len(payload) >= start + 6 and payload[start + 3 : start + 6] != _START_CODE:
        return BadPacket("vp8 key frame without start code")
    return Fragment._make((payload[start:], begins, is_key, is_key))


def _descriptor_bytes(payload: bytes) -> int | None:
    """Length of the descriptor; None when the payload ends in it."""
    if not payload:
        return None
    if not payload[0] & 0x80:  # X
        return 1
    if len(payload) < 2:
        return None
    extension, length = payload[1], 2
    if extension & 0x80:  # I: a picture ID of 7 or, with M, 15 bits
        if len(payload) < 3:
            return None
        length += 2 if payload[2] & 0x80 else 1
    if extension & 0x40:  # L: TL0PICIDX
        length += 1
    if extension & 0x30:  # T or K share one byte
        length += 1
    return length
