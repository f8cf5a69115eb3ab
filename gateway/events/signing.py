"""Signatures of webhooks, as Standard Webhooks 1.0 has them: any of its libraries checks them.

    webhook-id: evt_5f2b...               the same whenever this event is sent
    webhook-timestamp: 1790000000         Unix time of this attempt
    webhook-signature: v1,MEUCIQ...       base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`

A secret is `whsec_` and base64 of 24 to 64 random bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from gateway.secret import check_secret

PREFIX: Final = "whsec_"
LEAST_BYTES: Final = 24
MADE_BY: Final = "echo whsec_$(openssl rand -base64 32)"


def key_of(secret: str, name: str) -> bytes:
    """The key in a secret; `ValueError` in words for the operator, where that setting is none or a weak one."""
    try:
        if not secret.startswith(PREFIX):
            raise ValueError
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (ValueError, binascii.Error):
        told = f"{name} is none: expected {PREFIX} and base64, such as the output of {MADE_BY}"
        raise ValueError(told) from None
    check_secret(name, key, LEAST_BYTES, MADE_BY)
    return key


def headers(key: bytes, event: str, unix_s: int, body: bytes) -> dict[str, str]:
    """Of one attempt."""
    digest = hmac.new(key, f"{event}.{unix_s}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": event,
        "webhook-timestamp": str(unix_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
