"""Who calls: tenant and trunk, by settings, and a pseudonym of the caller.

A telephone belongs to the trunk that its INVITE came from, by address, and to that trunk's tenant; a browser to
the tenant that its token names (claim `tenant`). Who is in no list belongs to none: nothing is capped then, and
its state stays for `redis_keep_s`.

The caller's own name (number or SIP address, `sub` of the token) is never kept: a keyed hash of it is, so that
what there is of one caller can be found again by who has the name and the key, and deleted.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.cluster.settings import Tenant, Trunk
from gateway.sources import address_of

MOST_IDENTITY_BYTES: Final = 256
_FROM = re.compile(r"<\s*(?:sips?|tel):([^>]*)>|^\s*(?:sips?|tel):([^;>]*)", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"')
"""A display name, which may have anything in it."""
_NUMBER = re.compile(r"\+?[0-9().\s-]{3,32}")


@dataclass(frozen=True, slots=True)
class Party:
    """Who calls, as far as it is kept."""

    tenant: str = ""
    trunk: str = ""
    caller: str = ""
    """Pseudonym; empty when nothing is known of the caller."""
    number: str = ""
    """Of a telephone, where the settings have it kept: the number or the SIP address itself."""
    recording: bool = False
    """Whether the call may be recorded."""
    attestation: str = ""
    """`state.records.Cdr.attestation`."""


NOBODY: Final = Party()


class Parties:
    """The tables of the settings, and the key of the pseudonyms."""

    def __init__(
        self,
        tenants: Mapping[str, Tenant],
        trunks: Mapping[str, Trunk],
        keep_s: int,
        secret: str,
        *,
        keeps_numbers: bool = False,
    ) -> None:
        self.keeps_numbers = keeps_numbers
        self._tenants, self._trunks, self._keep_s, self._secret = tenants, trunks, keep_s, secret
        self._networks = [
            (ipaddress.ip_network(host, strict=False), name)
            for name, trunk in trunks.items()
            for host in trunk.networks
        ]
        self._networks.sort(key=lambda found: -found[0].prefixlen)  # the narrowest first

    def of_telephone(self, source: str, from_value: str) -> Party:
        """By the address that an INVITE came from, and its From."""
        return self.of_trunk(self._trunk(source), from_value)

    def of_trunk(self, trunk: str, from_value: str) -> Party:
        """By the trunk that is known otherwise; "" is none."""
        tenant = self._trunks[trunk].tenant if trunk in self._trunks else ""
        identity = telephone_identity(from_value)
        number = identity[:MOST_IDENTITY_BYTES] if self.keeps_numbers else ""
        return Party(tenant, trunk, pseudonym(identity, self._secret), number)

    def of_browser(self, name: str, tenant: str) -> Party:
        """By what its token says."""
        return Party(
            tenant if tenant in self._tenants else "", "", pseudonym(given_identity(name), self._secret)
        )

    def limits(self, party: Party) -> dict[str, int]:
        """What the call counts for, and how many there may be of each."""
        limits = {}
        if party.tenant in self._tenants and (most := self._tenants[party.tenant].calls):
            limits[f"tenant:{party.tenant}"] = most
        if party.trunk in self._trunks and (most := self._trunks[party.trunk].calls):
            limits[f"trunk:{party.trunk}"] = most
        return limits

    def keep_s(self, tenant: str) -> int:
        """How long the state of a call of theirs stays once it is over."""
        known = self._tenants.get(tenant)
        return (known.keep_s if known is not None else 0) or self._keep_s

    def _trunk(self, source: str) -> str:
        address = address_of(source)
        if address is None:
            return ""
        return next((name for net, name in self._networks if address in net), "")


def telephone_identity(from_value: str) -> str:
    """A number without what is between its digits, else user@host in small letters; "" for none or anonymous."""
    found = _FROM.search(_QUOTED.sub("", from_value[:1024]))
    if found is None:
        return ""
    address = (found[1] or found[2] or "").partition(";")[0].strip()
    user, _, host = address.partition("@")
    user, host = user.partition(":")[0], re.sub(r":[0-9]+$", "", host)  # without password and port
    if _NUMBER.fullmatch(user):
        return re.sub(r"[^0-9+]", "", user)
    if not user or host.lower().endswith("anonymous.invalid"):  # RFC 3323 4.1.1.3
        return ""
    return f"{user}@{host}".lower() if host else user.lower()


def given_identity(name: str) -> str:
    """What an operator types: as it stands in a From, or as `sub` of a token."""
    told = name.strip()
    if re.match(r"(?:sips?|tel):", told, re.IGNORECASE) or "<" in told:
        return telephone_identity(told)
    return re.sub(r"[^0-9+]", "", told) if _NUMBER.fullmatch(told) else told


def pseudonym(identity: str, secret: str) -> str:
    """32 hexadecimal digits by BLAKE2s with the key; "" for nobody."""
    if not identity:
        return ""
    key = hashlib.blake2s(secret.encode(), person=b"microtrn").digest()
    told = identity.encode(errors="replace")[:MOST_IDENTITY_BYTES]
    return hashlib.blake2s(told, key=key, digest_size=16).hexdigest()
