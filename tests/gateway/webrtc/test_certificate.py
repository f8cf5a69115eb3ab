"""With whom a DTLS handshake succeeds."""

from __future__ import annotations

import datetime

import pytest
from aiortc.rtcdtlstransport import SRTP_PROFILES
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL

from gateway.webrtc.certificate import Certificate

ROUNDS = 12  # flights of a handshake, with room to spare
DATAGRAM = 1500


def ours() -> SSL.Connection:
    return SSL.Connection(Certificate.generateCertificate()._create_ssl_context(SRTP_PROFILES))


def peer(kind: str) -> SSL.Connection:
    """One that OpenSSL makes of a certificate with such a key, and of its own defaults."""
    key = (
        ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa" else rsa.generate_private_key(65537, 2048)
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, until)
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *told: True)
    context.use_certificate(made.sign(key, hashes.SHA256()))
    context.use_privatekey(key)
    context.set_tlsext_use_srtp(b"SRTP_AES128_CM_SHA1_80")
    return SSL.Connection(context)


def shake_hands(client: SSL.Connection, server: SSL.Connection) -> None:
    """Over memory; `SSL.Error` when they do not agree."""
    client.set_connect_state()
    server.set_accept_state()
    for end in (client, server):
        end.set_ciphertext_mtu(1200)
    done: set[SSL.Connection] = set()
    for end, far in [(client, server), (server, client)] * ROUNDS:
        try:
            end.do_handshake()
            done.add(end)
        except SSL.WantReadError:
            pass
        while True:
            try:
                far.bio_write(end.bio_read(DATAGRAM))
            except SSL.WantReadError:
                break
    assert len(done) == 2


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
@pytest.mark.parametrize("role", ["client", "server"])
def test_peers_with_either_kind_of_key_get_through(kind: str, role: str) -> None:
    near, far = ours(), peer(kind)
    shake_hands(*((near, far) if role == "client" else (far, near)))
    assert near.get_selected_srtp_profile() == far.get_selected_srtp_profile() == b"SRTP_AES128_CM_SHA1_80"


def test_among_ourselves_it_is_ecdsa() -> None:
    near, far = ours(), ours()
    shake_hands(near, far)
    assert near.get_cipher_name() == "ECDHE-ECDSA-AES128-GCM-SHA256"
