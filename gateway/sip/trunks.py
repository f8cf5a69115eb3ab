"""Trunks: carriers and exchanges that telephone calls come from and go to, as an operator writes them down.

[trunks.carrier]
hosts = ["203.0.113.0/24"]            # calls from there are this trunk's
server = "sip.example.net:5060"       # calls of ours go there; needs dial
user = "4930123"                      # digest towards them, and who we are
register = true
dial = ["+49", "/0[1-9][0-9]+/"]      # whom may be called: prefixes, or patterns for the whole number
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from gateway.sip.digest import Login
from gateway.sip.registration import Registree
from gateway.sip.sdp_policy import CODECS, Policy
from gateway.sip.targets import Target, target_of_uri
from gateway.words import words

SRTP: Final = ("off", "optional", "required")
LEAST_SESSION_S: Final = 90
"""RFC 4028 section 4: no less makes sense, and peers refuse it (422)."""
_NUMBER = re.compile(r"\+?[0-9*#A-Za-z._-]{1,64}")
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_NAME_LETTERS: Final = 64

Calls = Annotated[int, Field(ge=0, le=1_000_000)]


class Trunk(BaseModel):
    """A peer. It is known by its addresses (`hosts`), by digest (`inbound_user`), or both ways."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hosts: tuple[str, ...] = ()
    """Addresses or networks of the peer that sends us the calls."""
    calls: Calls = 0
    """At once, on all gateways that share a Redis, in both directions; 0 is as many as there is room for."""
    tenant: str = ""
    server: str = ""
    """HOST or HOST:PORT that our calls and REGISTERs go to; empty is none."""
    transport: Literal["udp", "tcp", "tls"] = "udp"
    """With tls, the certificate of `domain` (else of the server's host) has to be shown."""
    domain: str = ""
    """In From, To and Request-URI; the server's host when empty."""
    user: str = ""
    """Who we are there: in From, Contact, and for digest (RFC 3261 22, RFC 8760)."""
    password: SecretStr = SecretStr("")
    auth_user: str = ""
    """For digest, where it is another one than `user`."""
    register_: bool = Field(False, alias="register")
    expires_s: Annotated[int, Field(ge=30, le=86_400)] = 300
    """Of a registration, as asked for; the registrar has the last word."""
    dial: tuple[str, ...] = ()
    """Whom we may call by it: prefixes, or patterns between slashes for the whole number; empty is nobody."""
    prices: dict[str, Annotated[float, Field(ge=0, le=1_000)]] = Field(default_factory=dict)
    """A minute to numbers that begin so; the longest beginning counts."""
    spend_day: Annotated[float, Field(ge=0, le=1_000_000_000)] = 0.0
    """What calls of ours by it may cost a day (UTC), on all gateways that share a Redis; 0 is no cap."""
    call_minutes: Annotated[float, Field(ge=0, le=1_440)] = 0.0
    """A call of ours is ended after so long; 0 is never, or an hour where spending is capped."""
    caller_id: str = ""
    """What those we call see, unless the call says otherwise; `user` when empty."""
    inbound_user: str = ""
    """With which the peer proves who it is, wherever it calls from."""
    inbound_password: SecretStr = SecretStr("")
    codecs: tuple[str, ...] = ()
    """Of its calls, the first one is liked most; empty is all: PCMU, PCMA and, in wideband places, G722."""
    srtp: Literal["", "off", "optional", "required"] = ""
    """Of its calls (SDES, RFC 4568); the setting `srtp` when empty."""
    session_expires_s: Annotated[int, Field(ge=0, le=86_400)] = 0
    """Session timer (RFC 4028) that we ask for in calls of ours; 0 is none."""

    rtp_family: Literal["ipv4", "ipv6"] = "ipv4"
    """Of the sound that we offer: in calls of ours, and to INVITEs without an offer. What is offered to us may be
    either."""
    rtp_source: Literal["", "learn", "lock", "sdp"] = ""
    """Whom the sound of its calls may come from; the setting `rtp_source` when empty."""
    recording: bool = False
    """Whether calls of ours by it may be recorded; of those that come in a rule says so."""
    stir: Literal["", "off", "show", "require"] = ""
    """Whether its callers are verified (STIR/SHAKEN), and have to be; the setting `stir` when empty."""

    @field_validator("hosts", "dial", "codecs", mode="before")
    @classmethod
    def _are_words(cls, value: Any) -> Any:
        return words(value)

    @field_validator("hosts")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError:
                raise ValueError(f"{host!r} is no address or network, such as 203.0.113.0/24") from None
        return value

    @field_validator("codecs")
    @classmethod
    def _are_codecs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        told = tuple(codec.upper().replace(".", "") for codec in value)
        for codec in told:
            if codec not in CODECS:
                raise ValueError(f"codecs has {codec!r}: expected some of {', '.join(CODECS)}")
        return told

    @field_validator("dial")
    @classmethod
    def _are_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_dial(value)
        return value

    @field_validator("prices")
    @classmethod
    def _are_of_prefixes(cls, value: dict[str, float]) -> dict[str, float]:
        for prefix in value:
            if prefix != "+" and not _NUMBER.fullmatch(prefix):
                raise ValueError(f"prices has {prefix!r}: expected what numbers begin with, such as +49")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Trunk:
        if not (self.hosts or self.server or self.inbound_user):
            raise ValueError(
                "a trunk needs hosts, inbound_user or server: where its calls come from or go to"
            )
        if self.server:
            self.target()
        for needs in ("register", "dial"):
            if (self.register_ if needs == "register" else self.dial) and not self.server:
                raise ValueError(
                    f"{needs} needs server: where the trunk is reached, such as sip.example.net:5060"
                )
        if self.spend_day and not self.prices:
            raise ValueError('spend_day needs prices: what a minute costs, such as prices = { "+49" = 0.02 }')
        if self.register_ and not self.user:
            raise ValueError("register needs user: who is to be registered")
        for user, password in (("user", "password"), ("inbound_user", "inbound_password")):
            has_password = bool(getattr(self, password).get_secret_value())
            if has_password and not getattr(self, user):
                raise ValueError(f"{password} without {user}: give both, or neither")
        if self.inbound_user and not self.inbound_password.get_secret_value():
            raise ValueError(
                "inbound_user without inbound_password: anyone who knows the name could call as it"
            )
        if 0 < self.session_expires_s < LEAST_SESSION_S:
            raise ValueError(
                f"session_expires_s = {self.session_expires_s}: expected 0 or {LEAST_SESSION_S} and more"
            )
        if self.domain and not _SERVER.fullmatch(self.domain):
            raise ValueError(f"domain = {self.domain!r}: expected HOST or HOST:PORT, such as example.net")
        for name in ("user", "caller_id"):
            value = getattr(self, name)
            if value and not _NUMBER.fullmatch(value):
                raise ValueError(
                    f"{name} = {value!r}: expected a number or name of letters, digits and +._-*#"
                )
        return self

    @property
    def srtp_mode(self) -> int:
        """0 off, 1 optional, 2 required."""
        return SRTP.index(self.srtp or "off")

    @property
    def networks(self) -> tuple[str, ...]:
        """`hosts`, and the server where that is an address."""
        match = _SERVER.fullmatch(self.server)
        try:
            return (
                (*self.hosts, str(ipaddress.ip_address(match["host"].strip("[]")))) if match else self.hosts
            )
        except ValueError:
            return self.hosts

    @property
    def login(self) -> Login | None:
        """Who we are where it asks for digest; None where nothing is set."""
        password = self.password.get_secret_value()
        return Login(self.auth_user or self.user, password) if password else None

    def policy(self, srtp: int | None) -> Policy:
        """What its calls may have; `srtp` is that of trunks that do not say."""
        srtp_mode = self.srtp_mode if self.srtp else srtp
        return Policy(self.codecs, srtp_mode, self.login, self.rtp_family == "ipv6")

    @property
    def host(self) -> str:
        """What stands behind the @."""
        match = _SERVER.fullmatch(self.server)
        return self.domain or (match["host"] if match else "")

    def target(self, user: str = "") -> Target:
        """Where it is reached. `ValueError` when `server` is no address."""
        match = _SERVER.fullmatch(self.server)
        port = int(match["port"] or (5061 if self.transport == "tls" else 5060)) if match else 0
        if match is None or not 0 < port < 65536:
            raise ValueError(
                f"server = {self.server!r}: expected HOST or HOST:PORT, such as sip.example.net:5060"
            )
        suffix = f";transport={self.transport}" if self.transport != "udp" else ""
        place = target_of_uri(f"sip:{match['host']}:{port}{suffix}".encode())
        uri = (
            f"sip:{user}@{self.domain or self.server}{suffix}"
            if user
            else f"sip:{self.domain or self.server}"
        )
        name = (self.domain or match["host"]).strip("[]") if self.transport == "tls" else ""
        return Target(uri.encode(), place.host, place.port, place.transport, name)

    def may_call(self, number: str) -> bool:
        """Whether `dial` has it."""
        return may_dial(self.dial, number)

    def price_of(self, number: str) -> float | None:
        """A minute of a call there; None where `prices` does not say."""
        known = max((prefix for prefix in self.prices if number.startswith(prefix)), key=len, default=None)
        return self.prices[known] if known is not None else None


def check_dial(listed: tuple[str, ...]) -> None:
    """`ValueError` for what is neither a prefix nor a pattern."""
    for pattern in listed:
        if _is_pattern(pattern):
            try:
                re.compile(pattern[1:-1])
            except re.error as wrong:
                raise ValueError(
                    f"dial has {pattern!r}, which is no regular expression ({wrong}): give such as /0[1-9]+/"
                ) from None
        elif pattern != "+" and not _NUMBER.fullmatch(pattern):
            raise ValueError(f"dial has {pattern!r}: expected a prefix such as +49, or /PATTERN/")


def may_dial(listed: tuple[str, ...], number: str) -> bool:
    """Whether a list of prefixes and patterns has the number."""
    return any(
        re.fullmatch(p[1:-1], number) is not None if _is_pattern(p) else number.startswith(p) for p in listed
    )


def _is_pattern(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] == "/"


def destination(trunk: Trunk, number: str) -> Target:
    """Whom an INVITE is for. `ValueError` for what is no number or name."""
    if not _NUMBER.fullmatch(number):
        raise ValueError(
            f"{number[:64]!r} cannot be called: expected a number or name of letters, digits and +._-*#"
        )
    return trunk.target(number.replace("#", "%23"))


def caller_uri(trunk: Trunk, caller_id: str = "", name: str = "") -> bytes:
    """What stands in From: `"Name" <sip:4930123@host>`. `ValueError` for what cannot stand there."""
    user = caller_id or trunk.caller_id or trunk.user or "microturn"
    if not _NUMBER.fullmatch(user):
        raise ValueError(
            f"caller_id = {user[:64]!r}: expected a number or name of letters, digits and +._-*#"
        )
    if len(name) > _NAME_LETTERS or not name.isprintable() or set(name) & set('"\\'):
        raise ValueError(
            f"caller_name = {name[:64]!r}: expected up to {_NAME_LETTERS} letters without quotes"
        )
    shown = f'"{name}" ' if name else ""
    return f"{shown}<sip:{user.replace('#', '%23')}@{trunk.host}>".encode()


def registree(name: str, trunk: Trunk) -> Registree:
    """Of a trunk with `register`."""
    login = trunk.login or Login(trunk.user, "")
    return Registree(name, trunk.target(), trunk.user, login, trunk.expires_s)


class Person(BaseModel, frozen=True, extra="forbid"):
    """Somebody whom the model may have join a caller and itself (`joins`)."""

    to: str
    """A number, or a name that the trunk knows, as in calls of ours."""
    trunk: str
    model: Literal["speaks", "listens"] = "speaks"
    """What the model does meanwhile."""
    caller_id: str = ""


def check_persons(persons: Mapping[str, Person], trunks: Mapping[str, Trunk]) -> None:
    """`ValueError` in words for the operator for `joins` that nobody could be called by."""
    for name, person in persons.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            raise ValueError(f"joins has {name!r}: a name has 1 to 64 letters, digits and ._-")
        trunk = trunks.get(person.trunk)
        if trunk is None or not trunk.server:
            known = ", ".join(sorted(t for t, its in trunks.items() if its.server)) or "none"
            raise ValueError(
                f"joins.{name}: trunk = {person.trunk!r}: expected a trunk with a server: {known}"
            )
        if not trunk.may_call(person.to):
            raise ValueError(
                f"joins.{name}: trunk {person.trunk} may not call {person.to!r}: add it to the trunk's dial"
            )
        try:
            destination(trunk, person.to)
            caller_uri(trunk, person.caller_id)
        except ValueError as wrong:
            raise ValueError(f"joins.{name}: {wrong}") from None


def check_targets(targets: dict[str, str]) -> None:
    """`ValueError` in words for the operator for `transfers` that nobody can be sent to."""
    for name, uri in targets.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            raise ValueError(f"transfers has {name!r}: a name has 1 to 64 letters, digits and ._-")
        if not re.fullmatch(r"(sips?|tel):[^\s<>\"?]{1,200}", uri):
            raise ValueError(
                f"transfers.{name} = {uri!r}: expected an address such as sip:sales@pbx.example.net"
            )
