"""STUN and TURN servers that clients are told, with credentials minted for each call.

The credentials are coturn's REST scheme (`use-auth-secret`): the user name is `<expiry>:<name>`, the password
its HMAC-SHA1 under the secret that the TURN server shares with us, in base64. They expire by themselves, and
nobody has to be told. SHA-1 is the scheme's choice.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IceServers:
    """What the operator has set."""

    stun_urls: tuple[str, ...] = ()
    turn_urls: tuple[str, ...] = ()
    turn_secret: str = ""
    turn_ttl_s: int = 3600

    def for_page(self, name: str, now_s: float) -> list[dict[str, object]]:
        """`iceServers` of an RTCConfiguration (W3C WebRTC), good for `turn_ttl_s` from now."""
        servers: list[dict[str, object]] = []
        if self.stun_urls:
            servers.append({"urls": list(self.stun_urls)})
        if self.turn_urls:
            username, credential = self._credentials(name, now_s)
            servers.append({"urls": list(self.turn_urls), "username": username, "credential": credential})
        return servers

    def links(self, name: str, now_s: float) -> list[str]:
        """The same as `Link` header fields (RFC 9725 section 4.6)."""
        links = [f'<{url}>; rel="ice-server"' for url in self.stun_urls]
        if self.turn_urls:
            username, credential = self._credentials(name, now_s)
            links += [
                f'<{url}>; rel="ice-server"; username="{username}"; credential="{credential}"; '
                'credential-type="password"'
                for url in self.turn_urls
            ]
        return links

    def _credentials(self, name: str, now_s: float) -> tuple[str, str]:
        return mint(self.turn_secret, name, int(now_s) + self.turn_ttl_s)


def mint(secret: str, name: str, expiry_s: int) -> tuple[str, str]:
    """User name and password that a TURN server with this secret takes until `expiry_s` (Unix time)."""
    username = f"{expiry_s}:{clean(name)}"
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return username, base64.b64encode(digest).decode()


def clean(name: str) -> str:
    """A name that can stand in a TURN user name and in a quoted header parameter."""
    kept = "".join(c for c in name if c.isascii() and (c.isalnum() or c in "-_."))
    return kept[:64] or "anyone"


def check_urls(urls: Sequence[str], schemes: tuple[str, ...], setting: str) -> None:
    """`ValueError` in words for the operator when one is no URL of RFC 7064 or RFC 7065."""
    for url in urls:
        scheme, colon, rest = url.partition(":")
        fits = rest and not rest.startswith("//") and rest.isascii() and not set(rest) & set(' <>"\\,;')
        if scheme not in schemes or not colon or not fits:
            raise ValueError(
                f"{setting} has {url!r}, which is no {schemes[0]} URL: give such as "
                f"{schemes[0]}:{schemes[0]}.example.net:3478"
            )
