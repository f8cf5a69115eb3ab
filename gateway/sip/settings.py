# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may choose about who may send SIP; `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from gateway.sip.guard import SCANNERS, check_pattern
from gateway.sources import Networks
from gateway.words import Words, words


class GuardSettings(BaseSettings):
    """Of the SIP edge: see the head of `gateway.sip.guard`."""

    sip_allow: Words = Field(
        (),
        description="networks that may begin something by SIP, such as 192.0.2.0/24, beside the hosts of trunks; "
        "others hear nothing of us; empty is everybody",
    )
    sip_requests_per_s: int = Field(
        25,
        ge=0,
        le=10_000,
        description="calls and other beginnings of one address, in bursts of four times as many; beyond it 503, "
        "then silence; 0 is no limit",
    )
    sip_silence_s: int = Field(
        60, ge=0, le=3600, description="an address far beyond it is not heard for so long; 0 is never"
    )
    sip_unlimited: Words = Field(
        ("127.0.0.0/8", "::1/128"),
        description="networks without that limit, such as a proxy's that all calls come from; hosts of trunks have "
        "none either",
    )
    sip_scanners: Words = Field(
        (), description=f"User-Agents that are not heard, * is anything, beside {', '.join(SCANNERS)}"
    )

    @field_validator("sip_allow", "sip_unlimited", "sip_scanners", mode="before")
    @classmethod
    def _are_words(cls, value: Any) -> Any:
        return words(value)

    @field_validator("sip_allow", "sip_unlimited")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Networks(value)
        return value

    @field_validator("sip_scanners")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            check_pattern(pattern)
        return value
