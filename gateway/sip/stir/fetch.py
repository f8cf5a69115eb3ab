# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates by HTTPS from hosts that the operator names, and from nowhere else.

A peer chooses the address, so nothing about it is believed: scheme, host and port are looked up in the list, again
at each redirect, and names may not lead to private addresses unless the list has their network.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.sip.stir.verdict import Distrust
from gateway.sources import Networks, address_of

MOST_BYTES: Final = 65_536
"""Of a file; real chains have 3 kB."""
MOST_REDIRECTS: Final = 2
PORTS: Final = (443, 8443)
"""Of hosts that are listed without one (ATIS-1000074 has these)."""
TYPES: Final = frozenset(
    (
        "application/pem-certificate-chain", "application/x-pem-file", "application/x-x509-ca-cert",
        "application/pkix-cert", "application/octet-stream", "text/plain",
    )
)  # fmt: skip
_HOST = re.compile(r"(\*\.)?([a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_MAX_AGE = re.compile(r"max-age=([0-9]{1,9})")


class Hosts:
    """The list: HOST, HOST:PORT, *.DOMAIN, and networks of private addresses that names may lead to. `ValueError`
    in words for the operator."""

    def __init__(self, listed: Iterable[str]) -> None:
        self._hosts: list[tuple[bool, str, tuple[int, ...]]] = []
        networks = []
        for entry in listed:
            if "/" in entry:
                networks.append(entry)
                continue
            match = _HOST.fullmatch(entry.lower())
            if match is None or (match[3] and not 0 < int(match[3]) < 65536):
                raise ValueError(
                    f"stir_hosts has {entry!r}: expected HOST, HOST:PORT, *.DOMAIN or a network such as 10.0.0.0/8"
                )
            ports = (int(match[3]),) if match[3] else PORTS
            host = match[2].strip("[]")
            self._hosts.append((bool(match[1]), host, ports))
            if address_of(host) is not None:  # who names an address means it
                networks.append(host)
        try:
            self._networks = Networks(networks)
        except ValueError as wrong:
            raise ValueError(f"stir_hosts: {wrong}") from None

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def check(self, url: URL) -> None:
        """Raises `Distrust` for an address that nothing is fetched from."""
        host, port = (url.host or "").lower(), url.port or 443
        if url.scheme != "https" or not host or url.user is not None:
            raise Distrust("info", "it is no https address")
        known = any(
            port in ports and (host.endswith(f".{name}") if is_domain else host == name)
            for is_domain, name, ports in self._hosts
        )
        if not known:
            raise Distrust("info", f"stir_hosts has no {host[:64]}:{port}")
        if address_of(host) is not None and not self.may_reach(host):
            raise Distrust("info", f"stir_hosts has no network of {host}")

    def may_reach(self, address: str) -> bool:
        """Whether a listed name may lead there."""
        found = address_of(address)
        return found is not None and (
            (found.is_global and not found.is_multicast) or str(found) in self._networks
        )


class _Resolver(AbstractResolver):
    """Addresses of names, without those that nobody may reach."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts, self._inner = hosts, aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [
            one for one in await self._inner.resolve(host, port, family) if self._hosts.may_reach(one["host"])
        ]
        if not found:
            raise OSError(f"{host} has private addresses alone: name their network in stir_hosts")
        return found

    async def close(self) -> None:
        await self._inner.close()


async def fetch(url: str, hosts: Hosts, context: ssl.SSLContext, total_s: float) -> tuple[bytes, int | None]:
    """What is there, and how many seconds it may be kept, where that is said. Raises `Distrust`."""
    try:
        at = URL(url)
    except ValueError:
        raise Distrust("info", "it is no address") from None
    connector = aiohttp.TCPConnector(
        ssl=context, resolver=_Resolver(hosts), use_dns_cache=False, force_close=True, limit=1
    )
    timeout = aiohttp.ClientTimeout(total=total_s)
    headers = {"Accept": "application/pem-certificate-chain, */*;q=0.1", "Accept-Encoding": "identity"}
    try:
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=headers, auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
        ) as http:  # fmt: skip
            for _ in range(1 + MOST_REDIRECTS):
                hosts.check(at)
                async with http.get(at, allow_redirects=False) as answer:
                    if answer.status in (301, 302, 303, 307, 308):
                        at = at.join(URL(answer.headers.get("Location", "")))
                        continue
                    return await _body(answer), _max_age(answer)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as wrong:
        raise Distrust("fetch", f"{at.host}: {type(wrong).__name__}") from None
    raise Distrust("fetch", f"{at.host}: more than {MOST_REDIRECTS} redirects")


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    host = answer.url.host
    if answer.status != 200:
        raise Distrust("fetch", f"{host}: status {answer.status}")
    if answer.content_type not in TYPES or answer.headers.get("Content-Encoding", "identity") != "identity":
        raise Distrust("fetch", f"{host}: type {answer.content_type[:64]}")
    data = bytearray()
    async for part in answer.content.iter_chunked(8_192):
        data += part
        if len(data) > MOST_BYTES:
            raise Distrust("fetch", f"{host}: more than {MOST_BYTES} bytes")
    return bytes(data)


def _max_age(answer: aiohttp.ClientResponse) -> int | None:
    control = answer.headers.get("Cache-Control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return 0
    found = _MAX_AGE.search(control)
    return int(found[1]) if found is not None else None
