"""H.264 out of RTP, RFC 6184: NAL units come back with start codes, as a decoder takes them (Annex B).

Packetization modes 0 and 1: single NAL unit, STAP-A and FU-A. It looks at NAL unit types and into nothing else.
"""

from __future__ import annotations

from typing import Final

from media.codecs.fragment import Fragment
from media.rtp import BadPacket

IDR, SPS, PPS, DELIMITER = 5, 7, 8, 9  # H.264 table 7-1
_STAP_A, _FU_A = 24, 28  # RFC 6184 table 1
_START_CODE: Final = b"\x00\x00\x00\x01"


def parse_payload(payload: bytes) -> Fragment | BadPacket:
    """One RTP payload (RFC 6184 section 5), or why it is none. Never raises."""
    if not payload:
        return BadPacket("short h264 payload")
    if payload[0] & 0x80:
        return BadPacket("h264 forbidden bit")
    kind = payload[0] & 0x1F
    if 1 <= kind <= 23:
        return _whole([payload])
    if kind == _STAP_A:
        return _aggregate(payload)
    if kind == _FU_A:
        return _fragment(payload)
    return BadPacket("h264 packet type not supported")


def _aggregate(payload: bytes) -> Fragment | BadPacket:
    """STAP-A, section 5.7.1: 16-bit size, NAL unit, and so on to the end."""
    units, at = [], 1
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 2], "big")
        unit = payload[at + 2 : at + 2 + size]
        if not unit or len(unit) != size:
            return BadPacket("h264 aggregate does not add up")
        if not 1 <= unit[0] & 0x1F <= 23 or unit[0] & 0x80:
            return BadPacket("h264 aggregate of wrong units")
        units.append(unit)
        at += 2 + size
    return _whole(units) if units else BadPacket("short h264 payload")


def _fragment(payload: bytes) -> Fragment | BadPacket:
    """FU-A, section 5.8: the NAL header is shared between the FU indicator and the FU header."""
    if len(payload) < 3:
        return BadPacket("short h264 payload")
    header, kind = payload[1], payload[1] & 0x1F
    if header & 0xC0 == 0xC0 or not 1 <= kind <= 23:  # start and end at once: section 5.8 forbids it
        return BadPacket("h264 fragment of wrong kind")
    begins = bool(header & 0x80)
    data = payload[2:]
    if begins:
        data = _START_CODE + bytes((payload[0] & 0xE0 | kind,)) + data
    return Fragment(data, may_begin=begins, is_key=kind == IDR, begins_key=begins and kind == SPS)


def _whole(units: list[bytes]) -> Fragment:
    kinds = [unit[0] & 0x1F for unit in units]
    leading = [kind for kind in kinds if kind != DELIMITER][:1]
    data = b"".join(_START_CODE + unit for unit in units)
    return Fragment(data, may_begin=True, is_key=IDR in kinds, begins_key=leading == [SPS])
