"""Resume tokens, `<worker>.<call>.<secret>`, as they are kept: the secret's hash alone.

A worker compares the secret itself (`webrtc.worker`). Where it is gone with its node, another node compares this.
"""

from __future__ import annotations

import hashlib
import hmac


def call_of(token: str) -> str:
    """The name of the call; "" for what is no token."""
    parts = token.split(".")
    return parts[1] if len(parts) == 3 else ""


def check_of(token: str) -> str:
    """What is kept of it; "" for what is no token."""
    parts = token.split(".")
    if len(parts) != 3:
        return ""
    return hashlib.blake2s(parts[2].encode(errors="replace"), digest_size=16).hexdigest()


def fits(token: str, check: str) -> bool:
    """Whether it is the token of which `check` was kept."""
    return bool(check) and hmac.compare_digest(check_of(token), check)
