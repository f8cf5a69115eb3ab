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

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gateway import personas
from gateway.api.turn import check_urls
from gateway.background.settings import BackgroundSettings
from gateway.cluster.parties import Parties
from gateway.cluster.settings import ClusterSettings
from gateway.events.settings import EventSettings
from gateway.recording.settings import RecordingSettings
from gateway.rules import Rules, RuleSettings
from gateway.safety.settings import SafetySettings
from gateway.secret import check_secret
from gateway.sip.digest import Doorman, Login
from gateway.sip.guard import GuardRules
from gateway.sip.sdp_policy import Policy
from gateway.sip.settings import GuardSettings, SourceSettings, StirSettings, TransferSettings
from gateway.sip.tls import client_context, server_context
from gateway.sip.trunks import LEAST_SESSION_S, SRTP
from gateway.state.address import Address
from gateway.state.address import parse as parse_address
from gateway.state.keys import check_namespace
from gateway.state.prices import PriceSettings
from gateway.words import Words, words

Engine = Literal["auto", "echo", "digits", "sglang"]
DEFAULT_ENGINE: Engine = "auto"
LEAST_SECRET_BYTES = 32
"""HS256 is as strong as its key (RFC 7518 section 3.2)."""
LEAST_PASSWORD = 12
"""Of a trunk that calls from anywhere: digest can be guessed offline by who has heard it."""


def _default_run_dir() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "microturn" if runtime else Path(f"/tmp/microturn-{os.getuid()}")


class GatewaySettings(
    BackgroundSettings,
    ClusterSettings,
    EventSettings,
    GuardSettings,
    PriceSettings,
    RecordingSettings,
    RuleSettings,
    SafetySettings,
    SourceSettings,
    StirSettings,
    TransferSettings,
):
    """What an operator may choose. Nothing listens beyond loopback unless one of the `_host`s says so."""

    model_config = SettingsConfigDict(env_prefix="MICROTURN_", frozen=True, extra="forbid")

    run_dir: Path = Field(default_factory=_default_run_dir, description="control sockets; made for you alone")
    engine: Engine = Field(
        DEFAULT_ENGINE,
        description="what answers: digits is the trained model, sglang the same under SGLang (make setup-sglang), "
        "echo returns each chunk one turn later, "
        "auto takes the model where it can run",
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
        256, ge=1, le=4096, description="rows of the slot table: calls the model server can hold"
    )
    spare_model_server: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether `microturn up` keeps a second model server warm, for when the first one dies; "
        "it takes the memory of a whole one, auto is on",
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
    rtp_port: int = Field(20_000, ge=1024, le=65_000, description="first port of RTP")
    rtp_ports: int = Field(16_000, ge=16, le=60_000, description="ports of RTP, shared out among the workers")

    webrtc_calls: int = Field(
        40,
        ge=0,
        le=4096,
        description="browser calls at once; beyond it 503 with Retry-After; 0 is none at all",
    )
    webrtc_workers: int = Field(1, ge=1, le=256, description="processes that share the browser calls")
    webrtc_host: str = Field("127.0.0.1", description="address that browsers' media is received on")
    webrtc_public_host: str = Field("", description="address that browsers are told; webrtc_host when empty")
    webrtc_udp_port: int = Field(
        7600,
        ge=0,
        le=65_000,
        description="UDP port of the first worker, the next has the next; 0 takes free ones",
    )
    webrtc_tcp_port: int = Field(
        7600, ge=0, le=65_000, description="the same over TCP, where UDP is blocked; 0 is no TCP"
    )
    webrtc_offers_per_s: int = Field(
        10, ge=0, le=1000, description="of one client address, in bursts of four times as many; 0 is no limit"
    )
    resume_s: int = Field(
        30, ge=0, le=600, description="a browser that was lost may come back to its call for so long"
    )
    red: Literal["off", "on"] = Field(
        "off", description="redundant audio of browser calls: survives loss at twice the bytes"
    )
    video: Literal["off", "on"] = Field("on", description="whether browsers may send a camera")
    video_frames_per_chunk: int = Field(2, ge=0, le=2, description="newest frames that a chunk carries")

    stun_urls: Words = Field((), description="STUN servers that browsers are told: stun:HOST:PORT, ...")
    turn_urls: Words = Field((), description="TURN servers that browsers are told: turn:HOST:PORT, ...")
    turn_secret: SecretStr = Field(SecretStr(""), description="shared with them (coturn: static-auth-secret)")
    turn_ttl_s: int = Field(3600, ge=60, le=86_400, description="how long minted TURN credentials are good")

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

    redis: str = Field(
        "auto",
        description="where the state of calls is kept: redis://HOST:PORT/DB, rediss://, unix:///PATH, "
        "sentinel://HOST:PORT,.../MASTER, cluster://HOST:PORT,...; off is nowhere; auto is a Valkey of our own "
        "in `microturn up`, and off elsewhere",
    )
    redis_user: str = Field("", description="user of its access list (ACL); empty is the default one")
    redis_password: SecretStr = Field(SecretStr(""), description="of that user")
    redis_tls_ca: str = Field("", description="PEM file: who signs its certificate; empty is the system's")
    redis_tls_cert: str = Field("", description="PEM file: our own certificate, where it asks for one")
    redis_tls_key: str = Field("", description="PEM file: that certificate's key, without password")
    redis_namespace: str = Field("microturn", description="what all keys begin with")
    redis_keep_s: int = Field(
        86_400, ge=60, le=31_622_400, description="the state of a call that is over stays for so long"
    )
    node: str = Field(
        "", description="name of this gateway among those that share a Redis; of host and run_dir when empty"
    )

    realtime: bool = Field(True, description="ask the kernel to run media before anything else")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("stun_urls", "turn_urls", "web_origins", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return words(value)

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
                f"{value!r}: telephones' sound is IPv4 alone, since pjsua2's builds have no IPv6: give an IPv4 "
                "address. sip_host may be IPv6"
            )
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
        if self.http_tls_cert or self.http_tls_key:
            self.http_tls()
        personas.check(self.personas)
        self._has_strong_tokens()
        self.check_cluster()
        self._tells_events()
        self.make_rules()
        self._has_state()
        self.check_background()
        self.check_transfers(self.trunks)
        self.check_stir(self.trunks, self.rules)
        if 0 < self.sip_session_expires_s < LEAST_SESSION_S:
            raise ValueError(
                f"sip_session_expires_s = {self.sip_session_expires_s}: expected 0 or {LEAST_SESSION_S} and more"
            )
        self._trunks_differ()
        if self.webrtc_calls:
            self._takes_browser_calls()
        self.check_recording()
        self.check_safety(self.tenants)
        return self

    def make_guard_rules(self) -> GuardRules:
        """Who may begin something by SIP."""
        trunks = tuple(host for trunk in self.trunks.values() for host in trunk.networks)
        allow = (*self.sip_allow, *trunks) if self.sip_allow else ()
        unlimited = (*self.sip_unlimited, *trunks)
        return GuardRules(allow, unlimited, self.sip_requests_per_s, self.sip_silence_s, self.sip_scanners)

    def make_rules(self) -> Rules:
        """What becomes of a call; `ValueError` in words for the operator."""
        takes_others = self.calls_without_rule == "take"
        return Rules(self.rules, self.personas, takes_others, self.tenants, self.trunks)

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
    def state_address(self) -> Address | None:
        """Where the state of calls is kept; None for nowhere, or what `microturn up` has to choose."""
        return parse_address(self.redis) if self.redis not in ("auto", "off") else None

    @property
    def node_name(self) -> str:
        """The same after a restart, and another one for each gateway of a host."""
        place = hashlib.blake2s(str(self.run_dir).encode(), digest_size=3).hexdigest()
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:48]
        return self.node or f"{host}-{place}"

    def _has_state(self) -> None:
        address = self.state_address
        check_namespace(self.redis_namespace)
        if self.node and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.node):
            raise ValueError(f"node = {self.node!r}: expected 1 to 64 letters, digits and ._-")
        password = self.redis_password.get_secret_value()
        files = {name: getattr(self, name) for name in ("redis_tls_ca", "redis_tls_cert", "redis_tls_key")}
        if address is None and (self.redis_user or password):
            raise ValueError(
                f"redis_user and redis_password are of no use with redis = {self.redis!r}: name the server"
            )
        if self.redis_user and not password:
            raise ValueError(
                f"redis_user = {self.redis_user!r} without redis_password: set MICROTURN_REDIS_PASSWORD"
            )
        for name, file in files.items():
            if file and (address is None or not address.tls):
                raise ValueError(
                    f"{name} is of no use with redis = {self.redis!r}: give rediss://, sentinels:// or clusters://"
                )
            if file and not os.access(file, os.R_OK):
                raise ValueError(f"{name} = {file!r} cannot be read: give the path of a PEM file")
        if bool(self.redis_tls_cert) != bool(self.redis_tls_key):
            raise ValueError(
                "redis_tls_cert and redis_tls_key go together: our own certificate and its key, or neither"
            )

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

    def _takes_browser_calls(self) -> None:
        self._has_a_secret()
        self._has_turn()
        self._has_web_ports()
        told = self.webrtc_public_host or self.webrtc_host
        try:
            usable = not ipaddress.ip_address(told).is_unspecified
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(
                f"webrtc_public_host = {self.webrtc_public_host!r} with webrtc_host = {self.webrtc_host!r}: "
                "give the IP address that browsers reach this machine at"
            )
        for origin in self.web_origins:
            if not re.fullmatch(r"https?://[a-z0-9.:\[\]-]+", origin):
                raise ValueError(
                    f"web_origins has {origin!r}, which is no origin: give scheme, host and port alone, "
                    "in lower case, such as https://app.example.net"
                )

    def _has_a_secret(self) -> None:
        secret = self.jwt_secret.get_secret_value()
        if not secret and not ipaddress.ip_address(self.http_host).is_loopback:
            raise ValueError(
                f"http_host = {self.http_host!r} without jwt_secret: anyone there could call. Set "
                "MICROTURN_JWT_SECRET to 32 random bytes or more (openssl rand -base64 48) and give callers tokens "
                "(microturn token), or http_host = 127.0.0.1, or webrtc_calls = 0 for no browser calls"
            )

    @property
    def serves_api(self) -> bool:
        """Whether `/v1` is there."""
        if self.api == "auto":
            return (
                bool(self.jwt_secret.get_secret_value()) or ipaddress.ip_address(self.http_host).is_loopback
            )
        return self.api == "on"

    def _has_strong_tokens(self) -> None:
        secret = self.jwt_secret.get_secret_value()
        if secret:
            check_secret("jwt_secret", secret.encode(), LEAST_SECRET_BYTES, "openssl rand -base64 48")
        elif self.api == "on" and not ipaddress.ip_address(self.http_host).is_loopback:
            raise ValueError(
                f"api = 'on' with http_host = {self.http_host!r} and without jwt_secret: anyone there could end "
                "calls. Set MICROTURN_JWT_SECRET to 32 random bytes or more (openssl rand -base64 48), or api = off"
            )

    def _tells_events(self) -> None:
        self.check_events(self.tenants)
        if self.webhooks and self.redis == "off":
            raise ValueError("webhooks with redis = 'off': nothing is known of calls there. Name a server")

    @property
    def events_folder(self) -> Path:
        """Where events wait."""
        return Path(self.events_dir) if self.events_dir else self.run_dir / "events"

    def _has_turn(self) -> None:
        check_urls(self.stun_urls, ("stun", "stuns"), "stun_urls")
        check_urls(self.turn_urls, ("turn", "turns"), "turn_urls")
        if bool(self.turn_urls) != bool(self.turn_secret.get_secret_value()):
            raise ValueError(
                "turn_urls and turn_secret go together: the secret is the TURN server's own "
                "(coturn: use-auth-secret, static-auth-secret), credentials are minted with it for each call"
            )

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
            shown = (
                error["loc"] and error["type"] != "value_error" and not re.search("secret|passw|key", where)
            )
            given = f" = {error['input']!r}" if shown else ""
            lines.append(f"{where}{given}: {told}")
        raise ValueError("\n".join(lines)) from None
