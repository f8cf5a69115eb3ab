"""What an operator may choose of the page and `/v1`; `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from gateway.secret import check_secret
from gateway.sip.tls import server_context
from gateway.words import Words, words

LEAST_SECRET_BYTES: Final = 32
"""HS256 is as strong as its key (RFC 7518 section 3.2)."""


class HttpSettings(BaseSettings):
    """Of HTTP."""

    http_host: str = Field("127.0.0.1", description="address of the page, WHIP, health and metrics")
    http_port: int = Field(8080, ge=0, le=65535, description="their port; 0 takes a free one")
    http_tls_cert: str = Field(
        "", description="PEM file: certificate of https, with its chain; empty is http"
    )
    http_tls_key: str = Field("", description="PEM file: the certificate's key, without password")
    jwt_secret: SecretStr = Field(
        SecretStr(""), description="browser calls need tokens signed with it; empty: only on loopback"
    )
    api: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether programs are served below /v1: auto is on loopback, and beyond it with a jwt_secret",
    )
    api_requests_per_s: int = Field(
        50,
        ge=0,
        le=10_000,
        description="of one client address, in bursts of four times as many; 0 is no limit",
    )
    web_origins: Words = Field(
        (), description="origins of other pages that may make browser calls: https://HOST, ..."
    )

    @field_validator("web_origins", mode="before")
    @classmethod
    def _origins_are_words(cls, value: Any) -> Any:
        return words(value)

    @property
    def serves_api(self) -> bool:
        """Whether `/v1` is there."""
        if self.api == "auto":
            return (
                bool(self.jwt_secret.get_secret_value()) or ipaddress.ip_address(self.http_host).is_loopback
            )
        return self.api == "on"

    def http_tls(self) -> ssl.SSLContext | None:
        """What the page is served with; None is plain HTTP. `ValueError` in words for the operator."""
        if not self.http_tls_cert and not self.http_tls_key:
            return None
        for name, file in (("http_tls_cert", self.http_tls_cert), ("http_tls_key", self.http_tls_key)):
            if not file:
                raise ValueError(f"{name} = '': certificate and key go together, or neither for plain http")
        try:
            return server_context(Path(self.http_tls_cert), Path(self.http_tls_key))
        except ValueError as wrong:
            raise ValueError(str(wrong).replace("sip_tls_", "http_tls_")) from None

    def check_http(self) -> None:
        """`ValueError` in words for the operator."""
        if self.http_tls_cert or self.http_tls_key:
            self.http_tls()
        for origin in self.web_origins:
            if not re.fullmatch(r"https?://[a-z0-9.:\[\]-]+", origin):
                raise ValueError(
                    f"web_origins has {origin!r}, which is no origin: give scheme, host and port alone, "
                    "in lower case, such as https://app.example.net"
                )
        secret = self.jwt_secret.get_secret_value()
        if secret:
            check_secret("jwt_secret", secret.encode(), LEAST_SECRET_BYTES, "openssl rand -base64 48")
        elif self.api == "on" and not ipaddress.ip_address(self.http_host).is_loopback:
            raise ValueError(
                f"api = 'on' with http_host = {self.http_host!r} and without jwt_secret: anyone there could end "
                "calls. Set MICROTURN_JWT_SECRET to 32 random bytes or more (openssl rand -base64 48), or api = off"
            )

    def check_web_tokens(self) -> None:
        """That not anyone may make browser calls; the same."""
        secret = self.jwt_secret.get_secret_value()
        if not secret and not ipaddress.ip_address(self.http_host).is_loopback:
            raise ValueError(
                f"http_host = {self.http_host!r} without jwt_secret: anyone there could call. Set "
                "MICROTURN_JWT_SECRET to 32 random bytes or more (openssl rand -base64 48) and give callers tokens "
                "(microturn token), or http_host = 127.0.0.1, or webrtc_calls = 0 for no browser calls"
            )
