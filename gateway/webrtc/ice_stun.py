"""STUN binding requests and their answers (RFC 8489), as far as ICE-lite needs them.

Reading never raises: a request is whole, well-formed and with a right FINGERPRINT, or it is None. Whether it is
*authentic* is asked separately, since that needs the password of its user.
"""

from __future__ import annotations

import hmac
import zlib
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from struct import pack, unpack_from
from typing import Final

COOKIE: Final = 0x2112A442
HEADER_BYTES: Final = 20
FINGERPRINT_BYTES: Final = 8
INTEGRITY_BYTES: Final = 24

BINDING_REQUEST: Final = 0x0001
BINDING_SUCCESS: Final = 0x0101
BINDING_ERROR: Final = 0x0111

USERNAME: Final = 0x0006
MESSAGE_INTEGRITY: Final = 0x0008
ERROR_CODE: Final = 0x0009
UNKNOWN_ATTRIBUTES: Final = 0x000A
XOR_MAPPED_ADDRESS: Final = 0x0020
PRIORITY: Final = 0x0024
USE_CANDIDATE: Final = 0x0025
FINGERPRINT: Final = 0x8028
ICE_CONTROLLED: Final = 0x8029

OPTIONAL: Final = 0x8000  # comprehension-optional from here on (RFC 8489 14)
KNOWN: Final = frozenset(
    {USERNAME, MESSAGE_INTEGRITY, ERROR_CODE, UNKNOWN_ATTRIBUTES, XOR_MAPPED_ADDRESS, PRIORITY, USE_CANDIDATE}
    | {0x0001, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E}  # of RFC 8489, without meaning here: ignored (6.3)
)
MAX_UNKNOWN: Final = 8  # attributes named in a 420

REASONS: Final = {400: b"", 401: b"Unauthenticated", 420: b"Unknown Attribute", 487: b"Role Conflict"}
"""No unsigned answer is longer than its question: 400 has 36 octets, and what it answers has a USERNAME of at least
4, hence 36, too; 401 has 52, and what it answers 60."""


@dataclass(frozen=True, slots=True)
class BindingRequest:
    """A connectivity check (RFC 8445 7.1), not yet authenticated."""

    data: bytes
    transaction_id: bytes  # 12 octets
    username: bytes
    integrity_at: int  # offset of MESSAGE-INTEGRITY, 0 without one
    use_candidate: bool
    is_controlled: bool  # the sender says that it is the controlled agent, too
    unknown: tuple[int, ...]  # comprehension-required attributes that we do not know

    @property
    def local_ufrag(self) -> bytes:
        """Our half of USERNAME (RFC 8445 7.2.2: the receiver's comes first)."""
        return self.username.partition(b":")[0]

    @property
    def remote_ufrag(self) -> bytes:
        return self.username.partition(b":")[2]

    def is_signed_by(self, password: bytes) -> bool:
        """Whether MESSAGE-INTEGRITY is there and right (RFC 8489 14.5)."""
        at = self.integrity_at
        if not at:
            return False
        expected = _integrity(self.data[:at], password)
        return hmac.compare_digest(self.data[at + 4 : at + INTEGRITY_BYTES], expected)


def is_binding_request(data: bytes) -> bool:
    """Whether the first two octets say so."""
    return data[:2] == b"\x00\x01"


def read_request(data: bytes) -> BindingRequest | None:
    """The binding request in `data`; None for anything else, and without a right FINGERPRINT (RFC 8445 7.1)."""
    if not _is_framed(data) or not _has_fingerprint(data):
        return None
    username, integrity_at, found, unknown = b"", 0, set(), []
    at, end = HEADER_BYTES, len(data) - FINGERPRINT_BYTES
    while at < end:
        kind, length = unpack_from("!HH", data, at)
        after = at + 4 + (length + 3 & ~3)
        if after > end:
            return None
        if kind == MESSAGE_INTEGRITY:
            if length != 20:
                return None
            integrity_at = at
            break  # what follows is not protected, therefore ignored (RFC 8489 14.5)
        if kind == USERNAME and kind not in found:  # of doubles, the first counts (RFC 8489 14)
            username = data[at + 4 : at + 4 + length]
        if kind < OPTIONAL and kind not in KNOWN and kind not in found:
            unknown.append(kind)
        found.add(kind)
        at = after
    return BindingRequest(
        data,
        data[8:20],
        username,
        integrity_at,
        USE_CANDIDATE in found,
        ICE_CONTROLLED in found,
        tuple(unknown[:MAX_UNKNOWN]),
    )


def success(request: BindingRequest, address: tuple[str, int], password: bytes) -> bytes:
    """The answer to a valid check: where it came from, signed (RFC 8445 7.3.1.2)."""
    value = _xored_address(address, request.transaction_id)
    attribute = pack("!HH", XOR_MAPPED_ADDRESS, len(value)) + value
    return _message(BINDING_SUCCESS, request.transaction_id, attribute, password)


def error(request: BindingRequest, code: int, password: bytes = b"") -> bytes:
    """An error answer, signed where a password is given, with what was unknown in a 420."""
    reason = REASONS[code]
    value = pack("!HBB", 0, code // 100, code % 100) + reason
    attributes = _attribute(ERROR_CODE, value)
    if code == 420:
        attributes += _attribute(UNKNOWN_ATTRIBUTES, b"".join(pack("!H", kind) for kind in request.unknown))
    return _message(BINDING_ERROR, request.transaction_id, attributes, password)


def plain_address(address: tuple[str | int, ...]) -> tuple[str, int]:
    """Host and port of a socket's address: no flow or scope, and IPv4 as such also out of a dual-stack socket."""
    ip = ip_address(str(address[0]).partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return str(mapped or ip), int(address[1])


def _is_framed(data: bytes) -> bool:
    if len(data) < HEADER_BYTES + FINGERPRINT_BYTES or len(data) % 4:
        return False
    kind, length, cookie = unpack_from("!HHI", data)
    return bool(kind == BINDING_REQUEST and cookie == COOKIE and length == len(data) - HEADER_BYTES)


def _has_fingerprint(data: bytes) -> bool:
    """FINGERPRINT is the last attribute and covers all before it (RFC 8489 14.7)."""
    kind, length, value = unpack_from("!HHI", data, len(data) - FINGERPRINT_BYTES)
    return bool(kind == FINGERPRINT and length == 4 and value == _fingerprint(data[:-FINGERPRINT_BYTES]))


def _fingerprint(before: bytes) -> int:
    return zlib.crc32(before) ^ 0x5354554E


def _integrity(before: bytes, password: bytes) -> bytes:
    """HMAC-SHA1 of what is before, with the length that the header had if this attribute were the last."""
    length = pack("!H", len(before) - HEADER_BYTES + INTEGRITY_BYTES)
    return hmac.digest(password, before[:2] + length + before[4:], "sha1")


def _attribute(kind: int, value: bytes) -> bytes:
    return pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def _message(kind: int, transaction_id: bytes, attributes: bytes, password: bytes) -> bytes:
    """Header and attributes, then MESSAGE-INTEGRITY if there is a password, then FINGERPRINT."""
    message = pack("!HHI", kind, len(attributes), COOKIE) + transaction_id + attributes
    if password:
        message += _attribute(MESSAGE_INTEGRITY, _integrity(message, password))
    length = pack("!H", len(message) - HEADER_BYTES + FINGERPRINT_BYTES)
    message = message[:2] + length + message[4:]
    return message + pack("!HHI", FINGERPRINT, 4, _fingerprint(message))


def _xored_address(address: tuple[str, int], transaction_id: bytes) -> bytes:
    """XOR-MAPPED-ADDRESS (RFC 8489 14.2)."""
    ip = ip_address(address[0])
    pad = pack("!I", COOKIE) + transaction_id
    xored = bytes(a ^ b for a, b in zip(ip.packed, pad, strict=False))
    return pack("!BBH", 0, 1 if ip.version == 4 else 2, address[1] ^ (COOKIE >> 16)) + xored
