"""A gateway with the shipped model and a state server of its own, for stories."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.engines import choose
from gateway.state import embedded
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

READY_S = 90.0


@contextlib.contextmanager
def digits_gateway(recordings: Path, telephones: int) -> Iterator[GatewayUnderTest]:
    """With places for so many telephone calls and two of browsers; skips where something of it is missing."""
    name, why = choose("auto")
    if name != "digits":
        pytest.skip(f"no trained model here: {why}")
    if not recordings.is_dir():
        pytest.skip(f"no recordings in {recordings}: they are not part of this tree")
    if embedded.find_server() is None:
        pytest.skip(embedded.MISSING)
    settings = {"webrtc_calls": "2", "redis": "auto"}
    wish = GatewayWish(telephones, "digits", settings=settings, ready_timeout_s=READY_S)
    with GatewayUnderTest.start(wish) as started:
        yield started
