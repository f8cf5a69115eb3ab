"""Our signer against the examples of AWS's S3 API reference (Signature Version 4, the Authorization header)."""

from __future__ import annotations

import hashlib

import pytest

from gateway.recording.sigv4 import Signer

SIGNER = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
HOST = "examplebucket.s3.amazonaws.com"
WHEN_S = 1_369_353_600.0  # 20130524T000000Z
EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    "method, path, query, headers, body, signature",
    [
        ("GET", "/test.txt", "", {"range": "bytes=0-9"}, b"",
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("PUT", "/test$file.text", "",
         {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
         b"Welcome to Amazon S3.", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        ("GET", "/", "lifecycle=", {}, b"",
         "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("GET", "/", "max-keys=2&prefix=J", {}, b"",
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)  # fmt: skip
def test_the_published_examples_have_their_published_signatures(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes, signature: str
) -> None:
    sent = SIGNER.sign(method, HOST, path, headers, hashlib.sha256(body).hexdigest(), WHEN_S, query)
    assert sent["authorization"].endswith(f"Signature={signature}")
    assert SIGNER.secret not in repr(SIGNER)
