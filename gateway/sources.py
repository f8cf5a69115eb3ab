"""Addresses that messages come from: what counts as one source, and lists of networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MOST_NAME_LETTERS = 64


def address_of(text: str) -> Address | None:
    """Without a zone, and IPv4 where it is IPv4 in IPv6; None for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def source_of(text: str) -> str:
    """What is counted as one source: an IPv4 address, or the /64 that an IPv6 caller has (RFC 6177)."""
    address = address_of(text)
    if address is None:
        return text[:MOST_NAME_LETTERS]
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Networks:
    """A list of networks. `ValueError` that names what is none."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [_network(text) for text in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, text: object) -> bool:
        address = address_of(str(text))
        return address is not None and any(address in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network: give such as 192.0.2.0/24") from None
