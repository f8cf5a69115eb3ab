# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS of one connection without its socket, and the certificate that it shows.

Not asyncio's own TLS: that tells nobody of a connection before its handshake is done, nor of one whose
handshake fails, so connections in their handshake could not be bounded.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Final, NoReturn

HANDSHAKE_S: Final = 5.0
_READ_BYTES: Final = 64 << 10


def expiry_of(certificate: Path) -> float:
    """When the first certificate of that PEM file ends, Unix time. `OSError`, `ValueError` for what is none."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What peers get to see; clients need no certificate.  ValueError in words for the operator."""
    for name, file in (("sip_tls_cert", certificate), ("sip_tls_key", key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise ValueError(
                f"{name} = {str(file)!r} cannot be read ({error.strerror}): "
                "give a PEM file that this user may read"
            ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except ssl.SSLError as error:
        raise ValueError(
            f"sip_tls_cert = {str(certificate)!r} with sip_tls_key = {str(key)!r} is refused "
            f"({error.reason or 'no PEM'}): give the certificate with its chain, and its own key, both as PEM"
        ) from None
    return context


def _no_password() -> NoReturn:
    raise ValueError("sip_tls_key is encrypted, and nobody is there to be asked: give it without password")


def client_context(ca: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Of connections that we open: whom we trust (the system's authorities where `ca` is empty), and our own
    certificate, should we be asked for it.  ValueError in words for the operator."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"sip_tls_ca = {ca!r} cannot be used ({error}): give a PEM file of certificates"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate:
        context.load_cert_chain(certificate, key, _no_password)
    return context


class Tls:
    """One side of one connection: the client's where `server_name` says whose certificate is to be seen."""

    def __init__(self, context: ssl.SSLContext, server_name: str = "") -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=not server_name, server_hostname=server_name or None
        )
        self.is_open = False
        """The handshake is done."""
        self.is_ended = False
        """The peer sends nothing more."""

    def receive(self, data: bytes) -> bytes:
        """Plain octets for what came from the socket.  Raises ssl.SSLError when the connection is lost.

        Either way, `outgoing` is to be sent next.
        """
        self._incoming.write(data)
        plain: list[bytes] = []
        try:
            if not self.is_open:
                self._object.do_handshake()
                self.is_open = True
            while part := self._object.read(_READ_BYTES):
                plain.append(part)
            self.is_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        return b"".join(plain)

    def begin(self) -> bytes:
        """The client's first octets."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
        return self._outgoing.read()

    def send(self, data: bytes) -> bytes:
        """What goes to the socket for plain `data`; only once open."""
        self._object.write(data)
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """What the handshake, or an alert, has for the socket."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """The last octets for the socket: that nothing follows."""
        if self.is_open:
            with contextlib.suppress(ssl.SSLError):  # it need not be answered
                self._object.unwrap()
        return self._outgoing.read()
