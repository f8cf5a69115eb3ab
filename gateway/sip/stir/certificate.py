# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of those who sign calls: chain to an anchor (RFC 5280), and which numbers they stand for (RFC 8226).

No IO; the wall clock is an argument.  Whatever is read, only `Distrust` is raised; of anchors, `ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from gateway.sip.stir.verdict import Distrust

E = TypeVar("E", bound=x509.ExtensionType)

MOST_CERTIFICATES: Final = 6
"""Of one file: a leaf and those above it."""
MOST_ENTRIES: Final = 10_000
"""Of one TNAuthList."""
TN_AUTH_LIST: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.26")
_UNDERSTOOD: Final = frozenset(
    (TN_AUTH_LIST, ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.CERTIFICATE_POLICIES)
)
"""Extensions that may be critical."""
_UNREADABLE: Final = (
    ValueError, TypeError, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm, InvalidSignature,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Numbers:
    """A TNAuthList: whom a certificate may sign for."""

    providers: tuple[str, ...] = ()
    """Service provider codes: which numbers these have is not told."""
    ranges: tuple[tuple[str, int], ...] = ()
    """First number, and how many."""
    single: frozenset[str] = frozenset()

    def cover(self, number: str) -> bool:
        """Whether it has the number; a provider's code is for all of his."""
        if self.providers or number in self.single:
            return True
        return number.isdigit() and any(
            len(number) == len(first) and int(first) <= int(number) < int(first) + count
            for first, count in self.ranges
        )


@dataclass(frozen=True, slots=True)
class Trusted:
    """A certificate that an anchor stands for, while its whole chain is valid."""

    key: ec.EllipticCurvePublicKey
    numbers: Numbers
    begins_s: float
    ends_s: float
    """Unix times, of all certificates of the chain."""

    def check(self, number: str, now_s: float) -> None:
        """Whether it may sign for a number now. Raises `Distrust`."""
        if not self.begins_s <= now_s <= self.ends_s:
            raise Distrust("expired")
        if not self.numbers.cover(number):
            raise Distrust("number")


def read_anchors(file: str) -> list[x509.Certificate]:
    """Those of a PEM file. `ValueError` in words for the operator."""
    try:
        found = x509.load_pem_x509_certificates(Path(file).read_bytes())
    except OSError as wrong:
        raise ValueError(
            f"stir_anchors = {file!r} cannot be read ({wrong.strerror}): give a PEM file that this user may read"
        ) from None
    except ValueError:
        raise ValueError(
            f"stir_anchors = {file!r} has no certificates: give a PEM file of authorities"
        ) from None
    for anchor in found:
        try:
            _check_authority(anchor, 0)
        except Distrust as wrong:
            raise ValueError(
                f"stir_anchors = {file!r} has {anchor.subject.rfc4514_string()!r}, which is no authority "
                f"({wrong.told}): give certificates of authorities alone"
            ) from None
    return found


def trusted(data: bytes, anchors: Sequence[x509.Certificate]) -> Trusted:
    """What a file has: PEM, leaf first, or one certificate as DER. Raises `Distrust`; of dates nothing is judged
    here."""
    try:
        if b"-----BEGIN" in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        if len(found) > MOST_CERTIFICATES:
            raise Distrust("certificate", f"{len(found)} certificates in one file")
        leaf, key = found[0], found[0].public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Distrust("certificate", "its key is not of P-256")
        _check_leaf(leaf)
        chain = _chain(leaf, found[1:], anchors)
        numbers = _numbers_of(leaf)
    except _UNREADABLE:
        raise Distrust("certificate", "it cannot be read") from None
    begins_s = max(one.not_valid_before_utc.timestamp() for one in chain)
    ends_s = min(one.not_valid_after_utc.timestamp() for one in chain)
    return Trusted(key, numbers, begins_s, ends_s)


def _chain(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """From the leaf to an anchor, by issuers. `Distrust` where there is none."""
    chain, left = [leaf], list(others)
    while True:
        last = chain[-1]
        anchor = next((anchor for anchor in anchors if _issued(anchor, last)), None)
        if anchor is not None:
            _check_authority(anchor, len(chain) - 1)
            return [*chain, anchor]
        above = next((other for other in left if _issued(other, last)), None)
        if above is None:
            raise Distrust("untrusted", "no chain to an anchor")
        _check_authority(above, len(chain) - 1)
        left.remove(above)
        chain.append(above)


def _issued(issuer: x509.Certificate, one: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except _UNREADABLE:
        return False
    return True


def _check_leaf(leaf: x509.Certificate) -> None:
    _check_critical(leaf)
    basic = _extension(leaf, x509.BasicConstraints)
    usage = _extension(leaf, x509.KeyUsage)
    if (basic is not None and basic.ca) or (usage is not None and not usage.digital_signature):
        raise Distrust("certificate", "it is not one to sign calls with")


def _check_authority(one: x509.Certificate, below: int) -> None:
    """`below`: authorities between it and the leaf."""
    _check_critical(one)
    basic = _extension(one, x509.BasicConstraints)
    usage = _extension(one, x509.KeyUsage)
    if basic is None or not basic.ca:
        raise Distrust("untrusted", "its issuer is no authority")
    if basic.path_length is not None and below > basic.path_length:
        raise Distrust("untrusted", "the chain is longer than its authority allows")
    if usage is not None and not usage.key_cert_sign:
        raise Distrust("untrusted", "its issuer may not sign certificates")


def _check_critical(one: x509.Certificate) -> None:
    for extension in one.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise Distrust("untrusted", f"critical extension {extension.oid.dotted_string}")


def _extension(one: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return one.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


# -- RFC 8226 section 9, DER


def _numbers_of(leaf: x509.Certificate) -> Numbers:
    try:
        extension = leaf.extensions.get_extension_for_oid(TN_AUTH_LIST).value
    except x509.ExtensionNotFound:
        raise Distrust("tn-list", "it has no TNAuthList") from None
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise Distrust("tn-list", "its TNAuthList cannot be read")
    try:
        return read_numbers(extension.value)
    except ValueError as wrong:
        raise Distrust("tn-list", f"its TNAuthList: {wrong}") from None


def read_numbers(der: bytes) -> Numbers:
    """TNAuthorizationList. `ValueError` for what is none."""
    providers, ranges, single = [], [], set()
    entries = _sequence(der)
    if not 0 < len(entries) <= MOST_ENTRIES:
        raise ValueError(f"{len(entries)} entries")
    for tag, content in entries:
        (inner,) = _all(content)
        if tag == 0xA0:
            providers.append(_letters(inner))
        elif tag == 0xA1:
            if inner[0] != 0x30:
                raise ValueError("no range")
            first, count = _all(inner[1])[:2]
            if count[0] != 0x02 or not 0 < len(count[1]) <= 8:
                raise ValueError("no count")
            many = int.from_bytes(count[1], "big", signed=True)
            number = _letters(first)
            if many < 2 or not number.isdigit():
                raise ValueError("no range")
            ranges.append((number, many))
        elif tag == 0xA2:
            single.add(_letters(inner))
        else:
            raise ValueError("an entry that nobody knows")
    return Numbers(tuple(providers), tuple(ranges), frozenset(single))


def _sequence(der: bytes) -> list[tuple[int, bytes]]:
    (whole,) = _all(der)
    if whole[0] != 0x30:
        raise ValueError("no sequence")
    return _all(whole[1])


def _letters(element: tuple[int, bytes]) -> str:
    if element[0] != 0x16 or not 0 < len(element[1]) <= 64:  # IA5String
        raise ValueError("no letters")
    return element[1].decode("ascii")


def _all(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of all elements, one after another."""
    found, at = [], 0
    while at < len(der):
        header = der[at : at + 2]
        if len(header) < 2:
            raise ValueError("cut off")
        tag, length, at = header[0], header[1], at + 2
        if length >= 0x80:
            more = length & 0x7F
            if not 0 < more <= 3 or at + more > len(der):
                raise ValueError("no length")
            length, at = int.from_bytes(der[at : at + more], "big"), at + more
        if at + length > len(der):
            raise ValueError("cut off")
        found.append((tag, der[at : at + length]))
        at += length
    return found
