"""What an operator may choose of events; `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from gateway.events.records import KINDS, WITHOUT_WORDS
from gateway.events.signing import key_of
from gateway.words import words

MOST_ENDPOINTS: Final = 16
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")


class Webhook(BaseModel):
    """An endpoint that events are posted to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    secret: SecretStr
    """`whsec_` and base64."""
    events: tuple[str, ...] = WITHOUT_WORDS
    """Types, or patterns of them: call.*"""
    tenant: str = ""
    """Whose events; empty is everybody's."""

    @field_validator("events", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return words(value)

    @property
    def key(self) -> bytes:
        """Of its signatures."""
        return key_of(self.secret.get_secret_value(), "secret")

    def wants(self, kind: str, tenant: str) -> bool:
        """Whether such an event goes there."""
        return self.tenant in ("", tenant) and any(fnmatchcase(kind, pattern) for pattern in self.events)


class EventSettings(BaseSettings):
    """Of one gateway."""

    webhooks: dict[str, Webhook] = Field(
        default_factory=dict,
        description="endpoints that events are posted to: url, secret, events and tenant of each, by name",
    )
    events_dir: str = Field(
        "", description="where events wait for their endpoints; below run_dir when empty: give one on a disk"
    )
    events_spool_mb: int = Field(64, ge=1, le=65_536, description="so much may wait; then the oldest go")
    events_give_up_s: int = Field(
        259_200, ge=60, le=2_592_000, description="an event that no attempt delivered in so long is given up"
    )
    events_words: Literal["off", "on"] = Field(
        "off", description="whether /v1/events has what was said, too: call.transcript and task.*"
    )
    events_kept: int = Field(
        10_000, ge=0, le=1_000_000, description="newest events that /v1/events can begin with; 0 is no stream"
    )

    def check_events(self, tenants: Mapping[str, object]) -> None:
        """`ValueError` in words for the operator."""
        if len(self.webhooks) > MOST_ENDPOINTS:
            raise ValueError(f"webhooks has {len(self.webhooks)} endpoints: {MOST_ENDPOINTS} at most")
        for name, webhook in self.webhooks.items():
            where = f"webhooks.{name}"
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"webhooks has {name!r}: expected up to 32 small letters, digits, points and hyphens"
                )
            _check_url(webhook.url, f"{where}: url")
            key_of(webhook.secret.get_secret_value(), f"{where}: secret")
            for pattern in webhook.events:
                if not any(fnmatchcase(kind, pattern) for kind in KINDS):
                    raise ValueError(f"{where}: events has {pattern!r}: expected some of {', '.join(KINDS)}")
            if webhook.tenant and webhook.tenant not in tenants:
                raise ValueError(f"{where}: tenant = {webhook.tenant!r} is not among the tenants")


def _check_url(url: str, where: str) -> None:
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    strange = not url.isprintable() or " " in url or bool(parts.username)
    if parts.scheme not in ("http", "https") or not host or strange:
        raise ValueError(f"{where} = {url!r}: expected https://HOST/PATH, without a password")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(f"{where} = {url!r}: beyond this machine events go by https alone")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
