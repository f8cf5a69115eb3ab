"""Probe calls: what an operator may choose."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from gateway.further_engines import FurtherEngine
from gateway.probe.score import is_installed

Codec = Literal["PCMU", "PCMA", "G722"]
LEAST_EVERY_S: Final = 30
"""A probe takes some 10 s of one place."""


class ProbeSettings(BaseSettings):
    """`gateway.config.GatewaySettings` has these fields, too."""

    probe_every_s: int = Field(
        0,
        ge=0,
        le=86_400,
        description="a call of our own to this gateway so often, whose sound is scored by PESQ; 0 is none. Needs "
        "the extra `probe`, and an engine that echoes",
    )
    probe_engine: str = Field(
        "echo",
        description="which of [engines] answers probe calls: one with engine = 'echo'; empty is the usual one",
    )
    probe_codecs: list[Codec] = Field(
        ["PCMU"],
        min_length=1,
        max_length=3,
        description="PCMU, PCMA and G722: a probe call with each, one by one",
    )

    def may_probe(self, engines: Collection[str]) -> bool:
        """Whether there is an engine for probe calls."""
        return not self.probe_engine or self.probe_engine in engines

    def check_probe(
        self, engines: dict[str, FurtherEngine], *, srtp_required: bool, wideband_calls: int
    ) -> None:
        """`ValueError` in words for the operator."""
        if len(set(self.probe_codecs)) < len(self.probe_codecs):
            raise ValueError(f"probe_codecs = {self.probe_codecs}: each once")
        if self.may_probe(engines) and self.probe_engine:
            found = engines[self.probe_engine].engine
            if self.probe_every_s and found not in (None, "echo"):
                raise ValueError(
                    f"probe_engine = {self.probe_engine!r} is engine = {found!r}, which says what it likes: "
                    'expected one that echoes, such as [engines.echo] with engine = "echo"'
                )
        if not self.probe_every_s:
            return
        if self.probe_every_s < LEAST_EVERY_S:
            raise ValueError(f"probe_every_s = {self.probe_every_s}: expected 0 or {LEAST_EVERY_S} and more")
        if not self.may_probe(engines):
            raise ValueError(
                f"probe_every_s = {self.probe_every_s} without [engines.{self.probe_engine}], which answers probe "
                f'calls: add it with engine = "echo", or probe_engine = "" where the usual engine is echo'
            )
        if "G722" in self.probe_codecs and not wideband_calls:
            raise ValueError(
                "probe_codecs has G722 with sip_wideband_calls = 0, which refuses it: give places, or leave it out"
            )
        if srtp_required:
            raise ValueError(
                f"probe_every_s = {self.probe_every_s} with srtp = 'required': probe calls have plain RTP, on this "
                "machine alone. Give srtp = 'optional', or no probes"
            )
        if not is_installed():
            raise ValueError(
                "probe_every_s needs package pesq, which is not installed: pip install 'microturn[probe]' (it is "
                "compiled: have a C compiler), or leave it 0"
            )
