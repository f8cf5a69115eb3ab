"""Who signs calls (STIR/SHAKEN): an authority, certificates with TNAuthLists, PASSporTs, and an https server that
has the certificates. All of it is real; times are arguments."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.sip.stir.certificate import TN_AUTH_LIST

URL = "https://cr.example.net/a.pem"
ANNA, BERT = "12155551212", "12155553434"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def der(tag: int, content: bytes) -> bytes:
    """One element, short or long form."""
    length = len(content)
    return bytes([tag, length] if length < 128 else [tag, 0x82, length >> 8, length & 255]) + content


def tn_auth_list(*entries: str | tuple[str, int], provider: str = "") -> bytes:
    """RFC 8226 9: a provider's code, ranges (first, count) and single numbers."""
    told = der(0xA0, der(0x16, provider.encode())) if provider else b""
    for entry in entries:
        if isinstance(entry, str):
            told += der(0xA2, der(0x16, entry.encode()))
        else:
            count = entry[1].to_bytes(4, "big")
            told += der(0xA1, der(0x30, der(0x16, entry[0].encode()) + der(0x02, count)))
    return der(0x30, told)


def pem(*certificates: x509.Certificate) -> bytes:
    """A file of them."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def key_pem(key: Key) -> bytes:
    """Without password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_key() -> ec.EllipticCurvePrivateKey:
    """Of P-256."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """A certificate that signs others; its own by `above`, or by itself."""

    name: str = "anchor"
    above: Authority | None = None
    is_authority: bool = True
    path_length: int | None = None
    now_s: float = field(default_factory=time.time)
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        issuer = self.above or self
        basic = x509.BasicConstraints(self.is_authority, self.path_length if self.is_authority else None)
        self.certificate = (
            self._builder(
                self.name, issuer.name, self.key.public_key(), self.now_s - 3_600, self.now_s + 86_400
            )
            .add_extension(basic, critical=True)
            .sign(issuer.key, hashes.SHA256())
        )

    def leaf(
        self,
        key: Key,
        numbers: bytes | None,
        begins_s: float | None = None,
        ends_s: float | None = None,
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> x509.Certificate:
        """Of who signs calls."""
        begins_s = self.now_s - 3_600 if begins_s is None else begins_s
        ends_s = self.now_s + 3_600 if ends_s is None else ends_s
        builder = self._builder("SHAKEN 709J", self.name, key.public_key(), begins_s, ends_s)
        if numbers is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(TN_AUTH_LIST, numbers), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def server(self) -> tuple[Key, x509.Certificate]:
        """Of an https server on loopback."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        key = new_key()
        builder = self._builder("localhost", self.name, key.public_key(), self.now_s - 60, self.now_s + 3_600)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return key, builder.sign(self.key, hashes.SHA256())

    def _builder(
        self, subject: str, issuer: str, public: Any, begins_s: float, ends_s: float
    ) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        def moment(at_s: float) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(int(at_s), datetime.UTC)

        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(begins_s))
            .not_valid_after(moment(ends_s))
        )


def passport(
    key: Any,
    now_s: float,
    *,
    url: str = URL,
    orig: str = ANNA,
    dest: str = BERT,
    attest: str = "A",
    alg: str = "ES256",
    header: dict[str, Any] | None = None,
    claims: dict[str, Any] | None = None,
) -> str:
    """A signed one; `header` and `claims` are put over what it would have (None takes away)."""
    told = {
        "attest": attest, "dest": {"tn": [dest]}, "iat": int(now_s), "orig": {"tn": orig},
        "origid": "123e4567-e89b-12d3-a456-426655440000",
    }  # fmt: skip
    said = {"alg": alg, "ppt": "shaken", "typ": "passport", "x5u": url} | (header or {})
    body = {k: v for k, v in (told | (claims or {})).items() if v is not None}
    return jwt.encode(body, key, algorithm=alg, headers=said)


def identity(token: str, url: str = URL, params: str = ";alg=ES256;ppt=shaken") -> str:
    """Value of the header."""
    return f"{token};info=<{url}>{params}"


class CertificateServer:
    """https://localhost:PORT with what is put into `files`: status, headers, body; `slow_s` before it."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self.files: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.slow_s = 0.0
        self.ca = folder / "https-ca.pem"
        self.ca.write_bytes(pem(authority.certificate))
        key, certificate = authority.server()
        own = folder / "https.pem"
        own.write_bytes(key_pem(key) + pem(certificate))
        server = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                time.sleep(server.slow_s)
                status, headers, body = server.files.get(self.path, (404, {}, b""))
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str) -> str:
        """Of a file."""
        return f"https://localhost:{self.port}{path}"

    def put(
        self, path: str, body: bytes, kind: str = "application/pem-certificate-chain", **headers: str
    ) -> str:
        """Its address."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.files[path] = (200, {"Content-Type": kind} | told, body)
        return self.url(path)

    @contextlib.contextmanager
    def serving(self) -> Iterator[CertificateServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
