"""Secrets of settings: what is too weak to be one stops the start."""

from __future__ import annotations

from typing import Final

LEAST_DIFFERENT: Final = 8
"""Bytes: 32 random ones have 30 different on average, and fewer than 20 never; letters of base64 some 25."""


def check_secret(name: str, secret: bytes, least_bytes: int, made_by: str) -> None:
    """`ValueError` in words for the operator, without the secret; `made_by` is a command that makes a good one."""
    if len(secret) < least_bytes:
        raise ValueError(
            f"{name} has {len(secret)} bytes: give {least_bytes} or more, such as the output of {made_by}"
        )
    if len(set(secret)) < LEAST_DIFFERENT:
        raise ValueError(
            f"{name} has only {len(set(secret))} different bytes and is easily guessed: give random ones, such as "
            f"the output of {made_by}"
        )
