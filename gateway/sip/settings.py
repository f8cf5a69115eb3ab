# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may choose about who may send SIP, who is believed, and whom callers may be handed to;
`gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from gateway.rules import Rule
from gateway.sip.guard import SCANNERS, check_pattern
from gateway.sip.targets import Targets
from gateway.sip.trunks import Person, Trunk, check_persons, check_targets
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


class StirSettings(BaseSettings):
    """Of STIR/SHAKEN: see the head of `gateway.sip.stir`."""

    stir_anchors: str = Field(
        "",
        description="PEM file: authorities behind the certificates that sign calls (STIR/SHAKEN); empty is no "
        "verification",
    )
    stir: Literal["show", "require"] = Field(
        "show",
        description="what becomes of a call whose caller is not verified: show takes it and says so, require "
        "refuses it with 428, 436, 437, 438 or 403; a trunk may have its own",
    )
    stir_hosts: Words = Field(
        (),
        description="hosts that certificates are fetched from by https: HOST, HOST:PORT, *.DOMAIN; and networks of "
        "private addresses that these names may lead to",
    )
    stir_certificates: str = Field(
        "", description="folder of certificates that are not fetched: files by the last part of their address"
    )
    stir_tls_ca: str = Field(
        "", description="PEM file: who signs the certificates of stir_hosts; empty is the system's"
    )
    stir_fresh_s: int = Field(
        60, ge=1, le=3600, description="a signature is good for so long, and as long before its time"
    )

    @field_validator("stir_hosts", mode="before")
    @classmethod
    def _hosts_are_words(cls, value: Any) -> Any:
        return words(value)

    def stir_of(self, trunk: Trunk | None) -> Literal["off", "show", "require"]:
        """Of calls of a trunk, or of none."""
        if not self.stir_anchors:
            return "off"
        return (trunk.stir if trunk is not None else "") or self.stir

    def check_stir(self, trunks: Mapping[str, Trunk], rules: Sequence[Rule]) -> None:
        """`ValueError` in words for the operator."""
        if self.stir_anchors:
            from gateway.sip.stir.verifier import make_verifier  # cryptography takes a while to load

            if not self.stir_hosts and not self.stir_certificates:
                raise ValueError(
                    "stir_anchors without stir_hosts and stir_certificates: no certificate could be had. List the "
                    "hosts of your carriers' certificates, such as cr.example.net"
                )
            make_verifier(
                self.stir_anchors,
                self.stir_hosts,
                self.stir_tls_ca,
                self.stir_certificates,
                self.stir_fresh_s,
            )
            return
        wanted = [
            f"trunks.{name}: stir" for name, trunk in trunks.items() if trunk.stir in ("show", "require")
        ]
        wanted += [
            f"rules[{at}]" + (f" ({rule.name})" if rule.name else "") + ": attestation"
            for at, rule in enumerate(rules, 1)
            if rule.attestation
        ]
        wanted += ["stir = 'require'"] if self.stir == "require" else []
        if wanted:
            raise ValueError(
                f"{wanted[0]} needs stir_anchors: give a PEM file of the authorities that sign calls' certificates"
            )


class SourceSettings(BaseSettings):
    """Of telephones' sound."""

    rtp_source: Literal["learn", "lock", "sdp"] = Field(
        "lock",
        description="whom the sound of telephone calls may come from: lock has the first address that was heard "
        "alone, sdp the one that was told, learn follows whoever sends; a trunk may have its own",
    )

    def rtp_source_of(self, trunk: Trunk | None) -> str:
        """Of calls of a trunk, or of none."""
        return (trunk.rtp_source if trunk is not None else "") or self.rtp_source


class TransferSettings(BaseSettings):
    """Whom callers may have themselves handed to, and whom we hand them to."""

    refer: Literal["refuse", "accept"] = Field(
        "refuse", description="whether callers may have themselves transferred (REFER)"
    )
    refer_targets: Words = Field(
        (), description="where to: HOST, HOST:PORT, *.DOMAIN, ...; no one else is called"
    )
    transfers: dict[str, str] = Field(
        default_factory=dict,
        description="people whom the model or the API may hand a caller to (REFER): name = address, such as "
        'sales = "sip:200@pbx.example.net"',
    )
    joins: dict[str, Person] = Field(
        default_factory=dict,
        description="people whom the model may have join it and its caller: name = { to, trunk }, and model = "
        '"listens" where it is to be silent meanwhile',
    )
    transfer_words: Literal["on", "off"] = Field(
        "on",
        description="whether whoever gets a caller, or joins one, is sent the end of the conversation, or its "
        "reference alone",
    )

    @field_validator("refer_targets", mode="before")
    @classmethod
    def _targets_are_words(cls, value: Any) -> Any:
        return words(value)

    @property
    def allowed_targets(self) -> tuple[str, ...]:
        """Whom callers may be transferred to: nobody unless `refer` says so."""
        return self.refer_targets if self.refer == "accept" else ()

    def check_transfers(self, trunks: Mapping[str, Trunk]) -> None:
        """`ValueError` in words for the operator."""
        check_persons(self.joins, trunks)
        try:
            Targets(self.refer_targets)
        except ValueError as wrong:
            raise ValueError(f"refer_targets: {wrong}") from None
        if self.refer == "accept" and not self.refer_targets:
            raise ValueError(
                "refer = 'accept' without refer_targets: callers are not authenticated, and any of them could have "
                "us call anyone. List the hosts that may be called, such as pbx.example.net, or refer = 'refuse'"
            )
        check_targets(self.transfers)
