"""Where traces go."""

from __future__ import annotations

import importlib.util
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings


class TraceSettings(BaseSettings):
    """Of gateways and background workers alike."""

    traces_endpoint: str = Field(
        "",
        description="OTLP/HTTP collector that gets a trace of each call, such as http://HOST:4318/v1/traces; empty "
        "is none. Needs the extra `traces`",
    )

    def check_traces(self, keeps_state: bool) -> None:
        """`ValueError` in words for the operator."""
        if not self.traces_endpoint:
            return
        parts = urlsplit(self.traces_endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"traces_endpoint = {self.traces_endpoint!r}: expected a URL of OTLP over HTTP, such as "
                "http://127.0.0.1:4318/v1/traces"
            )
        if not keeps_state:
            raise ValueError(
                "traces_endpoint with redis = 'off': what becomes of calls is not known there. Name a server, or "
                "leave traces_endpoint empty"
            )
        if not _is_installed():
            raise ValueError(
                "traces_endpoint needs OpenTelemetry, which is not installed: pip install 'microturn[traces]', or "
                "leave it empty"
            )


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # of a package above it
        return False
