"""Settings of the gateway: one frozen object, from flags, environment and file, checked at the start.

`MICROTURN_SIP_PORT=5070` in the environment, `sip_port = 5070` in `microturn.toml` (or the file that
`MICROTURN_CONFIG` names), `--sip-port 5070` on the command line: the later wins. Unknown keys are refused.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import secrets
import socket
import ssl
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gateway import personas
from gateway.api.settings import HttpSettings
from gateway.background.settings import BackgroundSettings
from gateway.cluster.parties import Parties
from gateway.cluster.settings import ClusterSettings
from gateway.events.settings import EventSettings
from gateway.further_engines import Engine, FurtherEngineSettings
from gateway.probe.settings import ProbeSettings
from gateway.recording.settings import RecordingSettings
from gateway.rules import Rules, RuleSettings
from gateway.safety.settings import SafetySettings
from gateway.sip.digest import Doorman, Login
from gateway.sip.guard import GuardRules
from gateway.sip.sdp_policy import Policy
from gateway.sip.settings import GuardSettings, SourceSettings, StirSettings, TransferSettings
from gateway.sip.tls import client_context, server_context
from gateway.sip.trunks import LEAST_SESSION_S, SRTP
from gateway.state.prices import PriceSettings
from gateway.state.settings import StateSettings
from gateway.tracing.settings import TraceSettings
from gateway.webrtc.settings import WebrtcSettings

DEFAULT_ENGINE: Engine = "auto"
LEAST_PASSWORD = 12
"""Of a trunk that calls from anywhere: digest can be guessed offline by who has heard it."""


def _default_run_dir() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "microturn" if runtime else Path(f"/tmp/microturn-{os.getuid()}")


class GatewaySettings(
    BackgroundSettings,
    ClusterSettings,
    EventSettings,
    FurtherEngineSettings,
    GuardSettings,
    HttpSettings,
    PriceSettings,
    ProbeSettings,
    RecordingSettings,
    RuleSettings,
    SafetySettings,
    SourceSettings,
    StateSettings,
    StirSettings,
    TraceSettings,
    TransferSettings,
    WebrtcSettings,
):
    """What an operator may choose. Nothing listens beyond loopback unless one of the `_host`s says so."""

    model_config = SettingsConfigDict(env_prefix="MICROTURN_", frozen=True, extra="forbid")

    run_dir: Path = Field(default_factory=_default_run_dir, description="control sockets; made for you alone")
    engine: Engine = Field(
        DEFAULT_ENGINE,
        description="what answers: digits is the trained model, sglang the same under SGLang (make setup-sglang), "
        "moshi one of the weights that can be downloaded (make setup-moshi, setting weights), "
        "echo returns each chunk one turn later, "
        "auto takes the model where it can run",
    )
    weights: str = Field(
        "", description="of moshi: their folder, or a repository that was downloaded (hf download REPOSITORY)"
    )
    persona: str = Field(
        "", description="what the model is to do, such as: correct 482913; empty is everything"
    )
    personas: dict[str, str] = Field(
        default_factory=dict,
        description="short form of rules, behind them: another persona for who calls that name or number: "
        '100 = "correct 482913", ...',
    )
    slots: int = Field(
        256,
        ge=1,
        le=4096,
        description="rows of the slot table: calls the model server can hold; of moshi, where this is not set, as "
        "many as its device has memory for",
    )
    spare_model_server: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether `microturn up` keeps a second model server warm, for when the first one dies; "
        "it takes the memory of a whole one, auto is on, but off with moshi",
    )

    sip_host: str = Field("127.0.0.1", description="address that SIP listens on")
    sip_port: int = Field(5060, ge=0, le=65535, description="UDP and TCP port of SIP; 0 takes a free one")
    sip_public_host: str = Field("", description="address that callers reach us at; sip_host when empty")
    sip_tls_port: int = Field(0, ge=0, le=65535, description="TLS port of SIP, such as 5061; 0 is no TLS")
    sip_tls_cert: str = Field("", description="PEM file: the certificate that callers see, with its chain")
    sip_tls_ca: str = Field(
        "",
        description="PEM file: who signs the certificates of trunks that we reach by TLS; empty is the system's",
    )
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
    hold_timeout_s: int = Field(
        3600, ge=2, le=86_400, description="the same of a call on hold, whose peer may be gone without a word"
    )
    srtp: Literal["off", "optional", "required"] = "off"
    dtmf_in: Literal["events", "inband"] = Field(
        "events",
        description="how keys that callers press are heard: events is RFC 4733 and SIP INFO; inband listens for "
        "their tones, too, in calls that send no events",
    )
    dtmf_out: Literal["auto", "info", "inband"] = Field(
        "auto",
        description="how keys are pressed towards peers: auto is RFC 4733 where the peer takes it, else SIP INFO",
    )
    sip_session_expires_s: int = Field(
        1800,
        ge=0,
        le=86_400,
        description="session timer (RFC 4028) of calls whose peer can have one; 0 is none",
    )

    rtp_host: str = Field("127.0.0.1", description="address that RTP is received on")
    rtp_host6: str = Field(
        "",
        description="IPv6 address that RTP is received on, where callers offer IPv6 (of several, by commas, "
        "the first one that is); empty refuses them; needs the pjsua2 of `make pjsip`",
    )
    rtp_port: int = Field(20_000, ge=1024, le=65_000, description="first port of RTP")
    rtp_ports: int = Field(12_000, ge=16, le=60_000, description="ports of RTP, shared out among the workers")

    realtime: bool = Field(True, description="ask the kernel to run media before anything else")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field(
        "text", description="lines of the log: text for people, json one object a line"
    )

    @field_validator("sip_host", "rtp_host", "http_host", "webrtc_host")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError(
                f"{value!r} is no IP address: give one of this machine, or 0.0.0.0 for SIP"
            ) from None
        return value

    @field_validator("rtp_host")
    @classmethod
    def _is_what_the_library_has(cls, value: str) -> str:
        if ":" in value:
            raise ValueError(
                f"{value!r} is no IPv4 address: give one here, and this one as rtp_host6. sip_host may be IPv6"
            )
        return value

    @field_validator("rtp_host6")
    @classmethod
    def _is_ipv6(cls, value: str) -> str:
        if "," in value:  # all addresses of a pod
            value = next((each.strip() for each in value.split(",") if ":" in each), value)
        try:
            if value:
                ipaddress.IPv6Address(value)
        except ValueError:
            raise ValueError(f"{value!r} is no IPv6 address: give one of this machine, or nothing") from None
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
        if self.drain_least_s > self.drain_s:
            raise ValueError(
                f"drain_least_s = {self.drain_least_s} is more than drain_s = {self.drain_s}: give it or less"
            )
        self.check_http()
        personas.check(self.personas)
        self.check_cluster()
        self._tells_events()
        self.check_engines(self.model_socket)
        self.check_probe(
            self.engines, srtp_required=self.srtp == "required", wideband_calls=self.sip_wideband_calls
        )
        self.make_rules()
        self.check_state()
        self.check_background()
        self.check_traces(self.redis != "off")
        self.check_transfers(self.trunks)
        self.check_stir(self.trunks, self.rules)
        if 0 < self.sip_session_expires_s < LEAST_SESSION_S:
            raise ValueError(
                f"sip_session_expires_s = {self.sip_session_expires_s}: expected 0 or {LEAST_SESSION_S} and more"
            )
        self._trunks_differ()
        if self.webrtc_calls:
            self.check_web_tokens()
            self.check_webrtc()
            self._has_web_ports()
        self.check_recording()
        self.check_safety(self.tenants)
        return self

    def make_guard_rules(self) -> GuardRules:
        """Who may begin something by SIP."""
        trunks = tuple(host for trunk in self.trunks.values() for host in trunk.networks)
        own = self._own_networks if self.probe_every_s else ()
        allow = (*self.sip_allow, *trunks, *own) if self.sip_allow else ()
        unlimited = (*self.sip_unlimited, *trunks, *own)
        return GuardRules(allow, unlimited, self.sip_requests_per_s, self.sip_silence_s, self.sip_scanners)

    @property
    def probe_host(self) -> str:
        """Where a probe call of our own reaches the edge: an address of this machine."""
        if not ipaddress.ip_address(self.sip_host).is_unspecified:
            return self.sip_host
        if not ipaddress.ip_address(self.rtp_host).is_unspecified:
            return self.rtp_host
        return "127.0.0.1"

    @property
    def _own_networks(self) -> tuple[str, ...]:
        """Whom probe calls come from."""
        return ("127.0.0.0/8", "::1/128", self.probe_host)

    def make_rules(self) -> Rules:
        """What becomes of a call; `ValueError` in words for the operator."""
        takes_others = self.calls_without_rule == "take"
        return Rules(self.rules, self.personas, takes_others, self.tenants, self.trunks, self.engine_personas)

    @property
    def worker_srtp(self) -> int:
        """What the SIP workers do: 0 off, 1 optional, 2 required. Where not all calls are alike they do as the peer
        does, and the edge sees to it."""
        modes = {SRTP.index(trunk.srtp or self.srtp) for trunk in self.trunks.values()}
        modes.add(SRTP.index(self.srtp))
        return modes.pop() if len(modes) == 1 else 1

    @property
    def call_policy(self) -> Policy:
        """Of calls of no trunk."""
        own = SRTP.index(self.srtp)
        return Policy(srtp=own if self.worker_srtp != own else None)

    def policy_of(self, trunk: str) -> Policy:
        """Of calls of a trunk."""
        known = self.trunks.get(trunk)
        return known.policy(self.call_policy.srtp) if known is not None else self.call_policy

    def make_doorman(self) -> Doorman:
        """Who asks trunks without an address who they are."""
        peers = {
            trunk.inbound_user: (name, Login(trunk.inbound_user, trunk.inbound_password.get_secret_value()))
            for name, trunk in self.trunks.items()
            if trunk.inbound_user
        }
        return Doorman(secrets.token_bytes(32), "microturn", peers)

    def make_parties(self) -> Parties:
        """Whose calls they are."""
        secret = self.caller_secret.get_secret_value()
        keeps = self.caller_numbers == "on"
        return Parties(self.tenants, self.trunks, self.redis_keep_s, secret, keeps_numbers=keeps)

    @property
    def node_name(self) -> str:
        """The same after a restart, and another one for each gateway of a host."""
        place = hashlib.blake2s(str(self.run_dir).encode(), digest_size=3).hexdigest()
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:48]
        return self.node or f"{host}-{place}"

    @property
    def tls_client(self) -> ssl.SSLContext | None:
        """Of connections to trunks; `ValueError` in words for the operator."""
        if not any(trunk.transport == "tls" for trunk in self.trunks.values()):
            return None
        return client_context(self.sip_tls_ca, self.sip_tls_cert, self.sip_tls_key)

    def _trunks_differ(self) -> None:
        users: dict[str, str] = {}
        if self.tls_client is not None and not self.sip_tls_port:
            raise ValueError(
                "a trunk has transport = 'tls' without sip_tls_port: its peer has to reach us the same way. Give "
                "sip_tls_port, such as 5061, with sip_tls_cert and sip_tls_key"
            )
        for name, trunk in self.trunks.items():
            if trunk.rtp_family == "ipv6" and not self.rtp_host6:
                raise ValueError(
                    f"trunks.{name}: rtp_family = 'ipv6' without rtp_host6: give the IPv6 address of this machine "
                    "that sound is received on, such as 2001:db8::1, or rtp_family = 'ipv4'"
                )
            if trunk.inbound_user and (other := users.setdefault(trunk.inbound_user, name)) != name:
                raise ValueError(
                    f"trunks.{name} and trunks.{other} have the same inbound_user {trunk.inbound_user!r}: "
                    "give each its own"
                )
            password = trunk.inbound_password.get_secret_value()
            if trunk.inbound_user and len(password) < LEAST_PASSWORD:
                raise ValueError(
                    f"trunks.{name}: inbound_password has {len(password)} letters: give {LEAST_PASSWORD} or more, "
                    "such as the output of openssl rand -base64 24"
                )

    def _tells_events(self) -> None:
        self.check_events(self.tenants)
        if self.webhooks and self.redis == "off":
            raise ValueError("webhooks with redis = 'off': nothing is known of calls there. Name a server")

    @property
    def events_folder(self) -> Path:
        """Where events wait."""
        return Path(self.events_dir) if self.events_dir else self.run_dir / "events"

    def _has_web_ports(self) -> None:
        workers = min(self.webrtc_workers, self.webrtc_calls)
        udp = (
            range(self.webrtc_udp_port, self.webrtc_udp_port + workers) if self.webrtc_udp_port else range(0)
        )
        tcp = (
            range(self.webrtc_tcp_port, self.webrtc_tcp_port + workers) if self.webrtc_tcp_port else range(0)
        )
        if udp.stop > self.rtp_port and udp.start < self.rtp_port + self.rtp_ports:
            raise ValueError(
                f"webrtc_udp_port = {udp.start} lies among the rtp_ports: give another, such as 7600"
            )
        for name in ("sip_port", "sip_tls_port", "http_port"):
            port = getattr(self, name)
            if port and (port in tcp or (name == "sip_port" and port in udp)):
                raise ValueError(
                    f"{name} = {port} is one of the {workers} port(s) from webrtc_udp_port = "
                    f"{self.webrtc_udp_port} or webrtc_tcp_port = {self.webrtc_tcp_port}: give others"
                )

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
        """Where the model server of the usual engine is met."""
        return self.run_dir / "model.sock"

    @property
    def further_sockets(self) -> dict[str, str]:
        """Of the model servers of further engines, by name."""
        return {name: str(path) for name, path in self.engine_sockets(self.model_socket).items() if name}

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
            shown = (
                error["loc"] and error["type"] != "value_error" and not re.search("secret|passw|key", where)
            )
            given = f" = {error['input']!r}" if shown else ""
            lines.append(f"{where}{given}: {told}")
        raise ValueError("\n".join(lines)) from None
