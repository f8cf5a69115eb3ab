"""One gateway for the stories that break nothing; those that do start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayUnderTest]:
    """Four narrowband calls, room for one wideband and for browsers, with whatever pjsua2 is installed here."""
    with GatewayUnderTest.start(
        GatewayWish(calls=5, settings={"sip_wideband_calls": "1", "webrtc_calls": "8"})
    ) as started:
        yield started
