"""AWS Signature Version 4 for requests to S3: pure, and small enough to be our own.

What is signed, and how: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" of
the S3 API reference, whose examples are our tests.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Signer:
    """Whoever asks."""

    user: str
    """Access key id."""
    secret: str = field(repr=False)
    region: str

    def sign(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body_sha256: str, unix_s: float,
        query: str = "",
    ) -> dict[str, str]:  # fmt: skip
        """All headers to send: those given (names in small letters), the date, the body's hash, `authorization`.

        `path` is not encoded yet, `query` is, and in order.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_s))
        sent = {**headers, "host": host, "x-amz-date": stamp, "x-amz-content-sha256": body_sha256}
        names = sorted(sent)
        told = "".join(f"{name}:{' '.join(sent[name].split())}\n" for name in names)
        signed = ";".join(names)
        request = "\n".join((method, encoded(path), query, told, signed, body_sha256))
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
        key = f"AWS4{self.secret}".encode()
        for part in (stamp[:8], self.region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        sent["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.user}/{scope},SignedHeaders={signed},Signature={signature}"
        )
        return sent


def encoded(path: str) -> str:
    """As S3 has it: RFC 3986, each segment once."""
    return quote(path, safe="/-_.~")
