"""Our DTLS certificate, and whom we shake hands with.

RFC 8827 section 6.5 asks everybody for an ECDSA certificate on P-256, and browsers have one; aiortc takes nothing
else. GStreamer's senders come with RSA. Who a peer is, its fingerprint in the offer says, whatever its key is.
Leans on `RTCCertificate._create_ssl_context` and `rtcdtlstransport.SRTP_PROFILES` of `aiortc==1.16.*`.
"""

from __future__ import annotations

from typing import Any, Final

from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import SRTP_PROFILES
from OpenSSL import SSL

CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256",
    b"ECDHE-ECDSA-CHACHA20-POLY1305",
    b"ECDHE-RSA-AES128-GCM-SHA256",
    b"ECDHE-RSA-CHACHA20-POLY1305",
    b"ECDHE-ECDSA-AES128-SHA",
    b"ECDHE-ECDSA-AES256-SHA",
)
"""aiortc's, and two with which the server's certificate may be RSA; its own comes first."""


class Certificate(RTCCertificate):
    """Made by `Certificate.generateCertificate()`: ECDSA on P-256."""

    def prepare(self) -> None:
        """A context that nobody uses: OpenSSL reads its tables for the first."""
        self._create_ssl_context(SRTP_PROFILES)

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> SSL.Context:
        context: SSL.Context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(b":".join(CIPHERS))
        return context
