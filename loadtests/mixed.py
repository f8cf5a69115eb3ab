"""Telephone and browser calls at once through one running gateway: the load tests of both kinds, side by side."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtests import beside
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

KINDS = ("sip", "webrtc")


@dataclass(frozen=True, slots=True)
class Load:
    """Calls at once. `ramp` calls a second begin, of each kind."""

    sip: int
    webrtc: int
    seconds: float
    ramp: float = 20.0


def wish(sip: int, webrtc: int, engine: str = "echo") -> GatewayWish:
    """A gateway with places for so many."""
    settings = {
        "slots": str(sip + webrtc),
        "webrtc_calls": str(webrtc),
        "rtp_ports": str(max(4_000, 8 * sip)),
    }
    return GatewayWish(calls=max(1, sip), engine=engine, settings=settings)


async def place(gateway: GatewayUnderTest, load: Load) -> dict[str, dict[str, Any]]:
    """What each kind's load test found, by kind; RuntimeError where one had no figures."""
    asked = {kind: calls for kind in KINDS if (calls := getattr(load, kind))}
    pid = f"{gateway.only('up').pid}"
    targets = {"sip": gateway.uri.removeprefix("sip:"), "webrtc": gateway.http}
    with tempfile.TemporaryDirectory(prefix="mixed-") as temporary:
        runs = [
            beside.run(
                "loadtests", kind, "--calls", f"{calls}", "--seconds", f"{load.seconds:g}",
                "--ramp", f"{load.ramp:g}",
                "--target", targets[kind], "--pid", pid, "--metrics-url", f"{gateway.http}/metrics",
                "--results", temporary,
            )
            for kind, calls in asked.items()
        ]  # fmt: skip
        ended = await asyncio.gather(*runs)
    if missing := [kind for kind, (_, told) in zip(asked, ended, strict=True) if not told]:
        raise RuntimeError(f"loadtests {missing[0]} had no figures")
    return {kind: told for kind, (_, told) in zip(asked, ended, strict=True)}


def missed_share(told: Mapping[str, Any]) -> float:
    """Of all turns; both kinds of one gateway count the same ones."""
    turns = told["turns"]
    return float(turns["missed"] or 0) / turns["total"] if turns["total"] else 0.0
