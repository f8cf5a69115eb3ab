"""Settings of the gateway: one frozen object, from flags, environment and file, checked at the start.

`MICROTURN_SIP_PORT=5070` in the environment, `sip_port = 5070` in `microturn.toml` (or the file that
`MICROTURN_CONFIG` names), `--sip-port 5070` on the command line: the later wins. Unknown keys are refused.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gateway.sip.tls import server_context


def _default_run_dir() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "microturn" if runtime else Path(f"/tmp/microturn-{os.getuid()}")


class GatewaySettings(BaseSettings):
    """What an operator may choose. Nothing listens beyond loopback unless `sip_host` or `rtp_host` says so."""

    model_config = SettingsConfigDict(env_prefix="MICROTURN_", frozen=True, extra="forbid")

    run_dir: Path = Field(default_factory=_default_run_dir, description="control sockets; made for you alone")
    engine: Literal["echo"] = Field(
        "echo", description="what answers: echo returns each chunk one turn later"
    )
    slots: int = Field(
        256, ge=1, le=4096, description="rows of the slot table: calls the model server can hold"
    )

    sip_host: str = Field("127.0.0.1", description="address that SIP listens on")
    sip_port: int = Field(5060, ge=0, le=65535, description="UDP and TCP port of SIP; 0 takes a free one")
    sip_public_host: str = Field("", description="address that callers reach us at; sip_host when empty")
    sip_tls_port: int = Field(0, ge=0, le=65535, description="TLS port of SIP, such as 5061; 0 is no TLS")
    sip_tls_cert: str = Field("", description="PEM file: the certificate that callers see, with its chain")
    sip_tls_key: str = Field("", description="PEM file: the certificate's key, without password")
    sip_calls: int = Field(200, ge=1, le=4096, description="calls at once; beyond it 503 with Retry-After")
    sip_wideband_calls: int = Field(4, ge=0, le=1024, description="of them, places for G.722 calls")
    sip_calls_per_worker: int = Field(
        100, ge=1, le=1024, description="of one process: all of it dies with it"
    )
    sip_max_workers: int = Field(
        16, ge=1, le=256, description="processes at most, whatever sip_calls asks for"
    )
    sip_retry_after_s: int = Field(
        2, ge=1, le=3600, description="seconds that a refused caller is asked to wait"
    )
    early_media_ms: int = Field(0, ge=0, le=60_000, description="183 with media for so long before the 200")
    rtp_timeout_s: int = Field(30, ge=2, le=3600, description="a call without RTP for so long is ended")
    srtp: Literal["off", "optional", "required"] = "off"

    rtp_host: str = Field("127.0.0.1", description="address that RTP is received on")
    rtp_port: int = Field(20_000, ge=1024, le=65_000, description="first port of RTP")
    rtp_ports: int = Field(16_000, ge=16, le=60_000, description="ports of RTP, shared out among the workers")

    http_host: str = Field("127.0.0.1", description="address of health and metrics")
    http_port: int = Field(8080, ge=0, le=65535, description="port of health and metrics; 0 takes a free one")
    realtime: bool = Field(True, description="ask the kernel to run media before anything else")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("sip_host", "rtp_host", "http_host")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError(
                f"{value!r} is no IP address: give one of this machine, or 0.0.0.0 for SIP"
            ) from None
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> GatewaySettings:
        if self.rtp_port + self.rtp_ports > 65_536:
            raise ValueError(
                f"rtp_port {self.rtp_port} + rtp_ports {self.rtp_ports} is beyond 65535: lower one"
            )
        if self.sip_tls_port:
            self._has_tls()
        if self.sip_wideband_calls > self.sip_calls:
            raise ValueError(
                f"sip_wideband_calls = {self.sip_wideband_calls} is more than sip_calls = {self.sip_calls}"
            )
        if 4 * self.sip_calls > self.rtp_ports:
            raise ValueError(
                f"rtp_ports = {self.rtp_ports} are too few for sip_calls = {self.sip_calls}: "
                "give four a call (RTP, RTCP, and a released pair that rests)"
            )
        return self

    def _has_tls(self) -> None:
        for name, file in (("sip_tls_cert", self.sip_tls_cert), ("sip_tls_key", self.sip_tls_key)):
            if not file:
                raise ValueError(
                    f"{name} = '' with sip_tls_port = {self.sip_tls_port}: "
                    "give the path of a PEM file, or sip_tls_port = 0 for no TLS"
                )
        if self.sip_tls_port == self.sip_port:
            raise ValueError(
                f"sip_tls_port = {self.sip_tls_port} is sip_port as well, which TCP has: give another, such as 5061"
            )
        server_context(Path(self.sip_tls_cert), Path(self.sip_tls_key))

    @property
    def model_socket(self) -> Path:
        """Where the model server is met."""
        return self.run_dir / "model.sock"

    @property
    def worker_socket(self) -> Path:
        """Where workers meet the gateway's main process."""
        return self.run_dir / "workers.sock"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before environment before file."""
        file = Path(os.environ.get("MICROTURN_CONFIG", "microturn.toml"))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)


def load(**flags: Any) -> GatewaySettings:
    """Settings with the flags that were given (None = not given); `ValueError` in words for the operator."""
    named = os.environ.get("MICROTURN_CONFIG")
    if named and not Path(named).is_file():
        raise ValueError(f"MICROTURN_CONFIG = {named!r}: there is no such file")
    known = {f"MICROTURN_{name.upper()}" for name in GatewaySettings.model_fields} | {"MICROTURN_CONFIG"}
    for name in os.environ:
        if name.startswith("MICROTURN_") and name not in known and not name.startswith("MICROTURN_MODEL_"):
            raise ValueError(
                f"{name} in the environment is no setting of microturn: see `microturn settings`"
            )
    try:
        return GatewaySettings(**{k: v for k, v in flags.items() if v is not None})
    except ValidationError as wrong:
        lines = []
        for error in wrong.errors():
            where = ".".join(str(part) for part in error["loc"]) or "settings"
            told = error["msg"].removeprefix("Value error, ")
            if error["type"] == "extra_forbidden":
                told = "is no setting of microturn: see `microturn settings`"
            given = f" = {error['input']!r}" if error["loc"] and error["type"] != "value_error" else ""
            lines.append(f"{where}{given}: {told}")
        raise ValueError("\n".join(lines)) from None
