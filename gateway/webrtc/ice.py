"""The ICE ports of one worker process: one UDP port and, if wanted, one passive TCP port for all its browser calls.

It checks who speaks (RFC 8445 7.3, RFC 8489 9.1.3), hands paths to `LiteConnection`s, keeps the one timer of all.
Its one rule: who has no valid credentials never gets more octets than he sent, and changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from aioice import Candidate
from aioice.candidate import candidate_foundation

from gateway.webrtc.ice_connection import SECOND_NS, Credentials, LiteConnection, Path, Registry
from gateway.webrtc.ice_counters import IceCounters
from gateway.webrtc.ice_stun import BindingRequest, error, is_binding_request, read_request, success
from gateway.webrtc.ice_tcp import MAX_STREAMS, TcpPort
from gateway.webrtc.ice_udp import UdpPort, bind

__all__ = ["IceCounters", "IceServer", "IceSettings", "LiteConnection"]

TICK_S: Final = 0.25  # of the timer: consent is lost at most so much later
UDP_PREFERENCE: Final = 126  # of a host candidate (RFC 8445 5.1.2.2)
TCP_PREFERENCE: Final = 90  # lower, as RFC 6544 4.2 asks: TCP makes speech wait behind what was lost
PASSIVE: Final = 4 << 13  # direction preference of a passive candidate (RFC 6544 4.2)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IceSettings:
    """Where a worker is reached. Raises ValueError for what cannot be.

    `public_hosts` are what browsers are told, most wanted first; by default `host`, then no wildcard ("::" takes
    IPv4, too). Port 0 takes a free one; `tcp_port` None is no TCP.
    """

    host: str = "127.0.0.1"
    public_hosts: tuple[str, ...] = ()
    udp_port: int = 0
    tcp_port: int | None = None
    tcp_only: bool = False  # advertise no UDP
    consent_s: float = 8.0
    connect_s: float = 30.0
    max_connections: int = 256
    max_tcp_streams: int = MAX_STREAMS

    def __post_init__(self) -> None:
        for host in (self.host, *self.public_hosts):
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise ValueError(f"ICE host {host!r} is no IP address: give one, not a name") from None
        for host in self.announced:
            if ipaddress.ip_address(host).is_unspecified:
                raise ValueError(
                    f"browsers cannot be told {host}: set public_hosts to what they reach you by"
                )
        for port in (self.udp_port, self.tcp_port or 0):
            if not 0 <= port < 65536:
                raise ValueError(f"ICE port {port} is not within 0 to 65535")
        if self.tcp_only and self.tcp_port is None:
            raise ValueError("tcp_only needs a tcp_port: set one, or 0 for any")

    @property
    def announced(self) -> tuple[str, ...]:
        """The addresses of our candidates."""
        return self.public_hosts or (self.host,)


class IceServer:
    """The ports, and who is reached through them. `now_ns` is the monotonic clock of everything in here."""

    def __init__(self, settings: IceSettings, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.settings = settings
        self.counters = IceCounters()
        self._now_ns = now_ns
        self._registry = Registry(
            now_ns,
            self.counters,
            settings.max_connections,
            int(settings.consent_s * SECOND_NS),
            int(settings.connect_s * SECOND_NS),
        )
        self._udp: UdpPort | None = None
        self._tcp: TcpPort | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Bind and listen. Raises OSError, saying which port could not be had."""
        settings = self.settings
        udp = bind(socket.SOCK_DGRAM, settings.host, settings.udp_port)
        try:
            if settings.tcp_port is not None:
                listening = bind(socket.SOCK_STREAM, settings.host, settings.tcp_port)
                self._tcp = TcpPort(
                    listening, self._check, self._now_ns, self.counters, settings.max_tcp_streams
                )
                await self._tcp.start()
        except OSError:
            udp.close()
            raise
        self._udp = UdpPort(udp, self._check, self._now_ns, self.counters)
        self._udp.start()
        self._registry.candidates = _candidates(settings, self.udp_port, self.tcp_port)
        self._tick()

    async def close(self) -> None:
        """End all connections, then the ports."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._registry.connections):
            connection.shut()
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            await self._tcp.close()
        self._udp = self._tcp = self._timer = None

    @property
    def udp_port(self) -> int:
        """The number bound; 0 when not started."""
        return self._udp.number if self._udp is not None else 0

    @property
    def tcp_port(self) -> int:
        """The number listened on; 0 without TCP."""
        return self._tcp.number if self._tcp is not None else 0

    @property
    def connections(self) -> int:
        """How many are reachable now."""
        return len(self._registry.connections)

    @property
    def addresses(self) -> int:
        """How many addresses of peers are known on UDP now."""
        return len(self._udp.paths) if self._udp is not None else 0

    def new_connection(
        self,
        ice_controlling: bool = False,
        *,
        local_username: str | None = None,
        local_password: str | None = None,
        **unused: object,
    ) -> LiteConnection:
        """A connection, with the arguments of `aioice.Connection`; STUN and TURN servers mean nothing to it.

        It is reachable once it has gathered. Before that several may have the same credentials, as aiortc makes
        them for an offer with several media that are then bundled.
        """
        connection = LiteConnection(self._registry, Credentials.make(local_username, local_password))
        connection.ice_controlling = ice_controlling
        return connection

    def check_time(self) -> None:
        """What the timer does: time limits of connections and of streams."""
        now_ns = self._now_ns()
        for connection in list(self._registry.connections):
            try:
                connection.check_time(now_ns)
            except Exception:
                self.counters.errors += 1
                _log.exception("the end of consent was too much for us", errors=self.counters.errors)
        if self._tcp is not None:
            self._tcp.check_time(now_ns)

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self.check_time()

    def _check(self, data: bytes, path: Path, now_ns: int) -> None:
        """One STUN datagram: count it, and answer what may be answered."""
        counters = self.counters
        if not is_binding_request(data):
            counters.stun_other += 1
            return
        request = read_request(data)
        if request is None:
            counters.bad_stun += 1
            return
        counters.stun_requests += 1
        found = self._registry.by_ufrag.get(request.local_ufrag)
        if found is None:
            counters.unknown_ufrag += 1
            return
        self._answer(request, *found, path, now_ns)

    def _answer(
        self,
        request: BindingRequest,
        connection: LiteConnection,
        credentials: Credentials,
        path: Path,
        now_ns: int,
    ) -> None:
        """Authenticate (RFC 8489 9.1.3), then RFC 8489 6.3.1 and RFC 8445 7.3.1."""
        counters, password = self.counters, credentials.password.encode()
        if not request.is_signed_by(password) or not credentials.is_of(request.remote_ufrag):
            counters.bad_integrity += 1
            path.send(error(request, 401 if request.integrity_at else 400))  # shorter than what it answers
        elif request.unknown:
            counters.unknown_attributes += 1
            path.send(error(request, 420, password))
        elif request.is_controlled:  # we never can be controlling: the peer has to change its role
            counters.role_conflicts += 1
            path.send(error(request, 487, password))
        elif connection.hear(request, credentials, path, now_ns):
            path.send(success(request, path.address, password))


def _candidates(settings: IceSettings, udp_port: int, tcp_port: int) -> list[Candidate]:
    """UDP first, then TCP; hosts in the order of the settings."""
    found = []
    for rank, host in enumerate(settings.announced):
        if not settings.tcp_only:
            found.append(_candidate("udp", host, udp_port, UDP_PREFERENCE, 65535 - rank))
    for rank, host in enumerate(settings.announced):
        if tcp_port:
            found.append(_candidate("tcp", host, tcp_port, TCP_PREFERENCE, PASSIVE + 8191 - rank))
    return found


def _candidate(transport: str, host: str, port: int, preference: int, local_preference: int) -> Candidate:
    """A host candidate of component 1 (RFC 8445 5.1.2.1)."""
    return Candidate(
        foundation=candidate_foundation("host", transport, host),
        component=1,
        transport=transport,
        priority=(preference << 24) + (local_preference << 8) + 255,
        host=host,
        port=port,
        type="host",
        tcptype="passive" if transport == "tcp" else None,
    )
