"""What an operator may choose of several gateways; `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from gateway.sip.trunks import Trunk as Trunk
from gateway.sip.trunks import check_dial
from gateway.words import words

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")

Calls = Annotated[int, Field(ge=0, le=1_000_000)]


class Tenant(BaseModel):
    """Whose calls they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: Calls = 0
    """At once, on all gateways that share a Redis; 0 is as many as there is room for."""
    keep_s: Annotated[int, Field(ge=0, le=31_622_400)] = 0
    """State of a call that is over stays for so long; 0 is `redis_keep_s`."""
    dial: tuple[str, ...] = ()
    """Whom it may call, beside what its trunks allow: prefixes, or patterns between slashes; empty is whomever they
    allow."""
    spend_day: Annotated[float, Field(ge=0, le=1_000_000_000)] = 0.0
    """What calls of ours for it may cost a day (UTC), on all gateways that share a Redis; 0 is no cap."""

    @field_validator("dial", mode="before")
    @classmethod
    def _are_words(cls, value: Any) -> Any:
        return words(value)

    @field_validator("dial")
    @classmethod
    def _are_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_dial(value)
        return value


class ClusterSettings(BaseSettings):
    """Of one gateway among those that share a Redis."""

    node_url: str = Field(
        "",
        description="where gateways that share a Redis reach this one's page and WHIP; of http_host and http_port "
        "when empty",
    )
    drain_s: int = Field(
        25,
        ge=0,
        le=86_400,
        description="live calls have so long to end after SIGTERM; then they are told goodbye",
    )
    drain_least_s: int = Field(
        0,
        ge=0,
        le=600,
        description="a gateway that drains stays for so long at least, without calls as well, and answers 503: as "
        "long as proxies that ask it by OPTIONS take to find out",
    )
    tenants: dict[str, Tenant] = Field(
        default_factory=dict,
        description="whose calls they are: calls (at once on all gateways), keep_s, dial and spend_day of "
        "each, by name",
    )
    trunks: dict[str, Trunk] = Field(
        default_factory=dict,
        description="carriers and exchanges that telephone calls come from and go to: hosts, calls (at once on all "
        "gateways), tenant, server, user, password, register, dial, prices, codecs, srtp, ... of each",
    )
    caller_secret: SecretStr = Field(
        SecretStr(""), description="key of callers' pseudonyms, the same for all gateways that share a Redis"
    )

    caller_numbers: Literal["off", "on"] = Field(
        "off",
        description="whether the state of a call has the number that called, beside its pseudonym",
    )

    def check_cluster(self) -> None:
        """`ValueError` in words for the operator."""
        if self.node_url and not re.fullmatch(r"https?://[^/\s@]+/?", self.node_url):
            raise ValueError(f"node_url = {self.node_url!r}: expected http://HOST:PORT or https://HOST:PORT")
        for kind, names in (("tenants", self.tenants), ("trunks", self.trunks)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(
                        f"{kind} has {name!r}: expected up to 32 small letters, digits, points and hyphens"
                    )
        for name, trunk in self.trunks.items():
            if trunk.tenant and trunk.tenant not in self.tenants:
                raise ValueError(f"trunks.{name}: tenant = {trunk.tenant!r} is not among the tenants")
