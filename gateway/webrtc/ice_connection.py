"""The ICE side of one browser call: an ICE-lite agent (RFC 8445 2.5) with the surface of `aioice.Connection`.

It sends no checks: it learns paths from the checks of its peer, sends on the one that the peer nominated, and takes
the checks as the peer's consent (RFC 7675). It knows no sockets: paths are given to it, by `ice_udp` and `ice_tcp`.
Its one rule: a path, a nomination and consent come from authenticated checks only.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from aioice import Candidate, ConnectionClosed
from aioice.ice import ConnectionEvent

from gateway.webrtc.ice_counters import IceCounters
from gateway.webrtc.ice_stun import BindingRequest

SECOND_NS: Final = 1_000_000_000
EXPIRY_NS: Final = 30 * SECOND_NS
"""RFC 7675 5.1: nothing may be sent on a path longer than this after the last sign of consent."""
MAX_PATHS: Final = 16  # addresses of one peer: interfaces, NAT bindings, TURN servers
MAX_GENERATIONS: Final = 4  # of credentials: restarts that the peer has not answered yet
MAX_SEEN: Final = 128  # transaction ids by which a replayed check is recognised
MAX_INBOX: Final = 256  # datagrams of DTLS, SCTP and RTCP; a handshake needs about 10
ICE_CHARACTERS: Final = string.ascii_letters + string.digits


class Path(Protocol):
    """A way to a peer: an address behind our UDP port, or a TCP stream."""

    connection: LiteConnection | None
    heard_ns: int

    @property
    def address(self) -> tuple[str, int]: ...
    def send(self, data: bytes) -> bool: ...
    def join(self, connection: LiteConnection) -> None: ...
    def leave(self) -> None: ...


@dataclass(slots=True)
class Credentials:
    """One generation of what both sides sign their checks with; the peer's half once it is known."""

    username: str
    password: str
    remote_username: str | None = None
    remote_password: str | None = None

    @classmethod
    def make(cls, username: str | None = None, password: str | None = None) -> Credentials:
        """New ones (RFC 8445 5.3: at least 24 and 128 bits), or the given."""
        return cls(username or _random(8), password or _random(24))

    def is_of(self, remote_ufrag: bytes) -> bool:
        """Whether the peer's half of a USERNAME fits, as far as that is known."""
        return self.remote_username is None or self.remote_username.encode() == remote_ufrag


@dataclass(slots=True)
class Registry:
    """Whom a ufrag belongs to, within one server; and what its connections share."""

    now_ns: Callable[[], int]
    counters: IceCounters
    max_connections: int
    consent_ns: int
    connect_ns: int
    candidates: list[Candidate] = field(default_factory=list)
    by_ufrag: dict[bytes, tuple[LiteConnection, Credentials]] = field(default_factory=dict)
    connections: set[LiteConnection] = field(default_factory=set)

    def add(self, connection: LiteConnection, credentials: Credentials) -> None:
        """Raises ConnectionError for one connection too many, and for a ufrag that is another one's."""
        ufrag = credentials.username.encode()
        holder = self.by_ufrag.get(ufrag)
        if holder is not None and holder[0] is not connection:
            self.counters.connections_refused += 1
            raise ConnectionError("two transports with one ufrag: the offer has to be bundled (RFC 9143)")
        if connection not in self.connections and len(self.connections) >= self.max_connections:
            self.counters.connections_refused += 1
            raise ConnectionError(f"all {self.max_connections} connections of this worker are in use")
        self.connections.add(connection)
        self.by_ufrag[ufrag] = connection, credentials

    def remove(self, connection: LiteConnection, credentials: Credentials) -> None:
        ufrag = credentials.username.encode()
        if self.by_ufrag.get(ufrag, (None,))[0] is connection:
            del self.by_ufrag[ufrag]


class LiteConnection:
    """What aiortc takes for its `aioice.Connection`; made by `IceServer.new_connection`.

    `on_rtp(datagram, arrival_ns)` gets SRTP at once; while it is None, SRTP is dropped and counted. `on_dead()` is
    called when neither a valid check nor media has come for the consent time, once; `on_alive()` when a check comes
    after that. A dead connection still sends, until 30 s after the last check (RFC 7675): some browsers check every
    6 s, and one may be lost.
    """

    def __init__(self, registry: Registry, credentials: Credentials) -> None:
        self.ice_controlling = False  # aiortc sets it from the offer; a lite agent is controlled all the same
        self.remote_is_lite = False
        self.remote_candidates: list[Candidate] = []  # those of the peer are of no use to who sends no checks
        self.on_rtp: Callable[[bytes, int], None] | None = None
        self.on_dead: Callable[[], None] | None = None
        self.on_alive: Callable[[], None] | None = None
        self.alive = False  # a valid check came within the consent time, nominated or not
        self.heard_ns = 0  # when the last one came
        self.media_ns = 0  # when the last authentic SRTP came: told by who holds the keys
        self._registry = registry
        self._generations = [credentials]
        self._is_gathered = self._is_expired = self._is_closed = False
        self._path: Path | None = None
        self._paths: list[Path] = []
        self._seen: dict[bytes, tuple[str, int]] = {}
        self._inbox: deque[bytes] = deque()
        self._fetching: asyncio.Future[None] | None = None
        self._connecting: asyncio.Future[None] | None = None
        self._connect_by_ns = 0
        self._is_established = self._is_away = False
        self._closing: asyncio.Future[ConnectionEvent] | None = None

    # Credentials

    @property
    def local_username(self) -> str:
        return self._generations[-1].username

    @property
    def local_password(self) -> str:
        return self._generations[-1].password

    @property
    def remote_username(self) -> str | None:
        """The peer's ufrag of the newest generation; compared with its checks once it is set."""
        return self._generations[-1].remote_username

    @remote_username.setter
    def remote_username(self, username: str | None) -> None:
        self._generations[-1].remote_username = username

    @property
    def remote_password(self) -> str | None:
        return self._generations[-1].remote_password

    @remote_password.setter
    def remote_password(self, password: str | None) -> None:
        self._generations[-1].remote_password = password

    def restart(self) -> tuple[str, str]:
        """New ufrag and password (RFC 8445 9); set `remote_username` after this, not before.

        Older ones stay valid until the first valid check with newer ones, and media stays where it is until the
        peer nominates again.
        """
        credentials = Credentials.make()
        if self._is_gathered and not self._is_closed:
            self._registry.add(self, credentials)
        self._registry.counters.restarts += 1
        self._generations.append(credentials)
        if len(self._generations) > MAX_GENERATIONS:
            self._registry.remove(self, self._generations.pop(0))
        return credentials.username, credentials.password

    # What aiortc calls

    @property
    def local_candidates(self) -> list[Candidate]:
        """Empty until gathered: aiortc takes the first one as the sign to connect."""
        return list(self._registry.candidates) if self._is_gathered and not self._is_closed else []

    def candidate_lines(self) -> list[str]:
        """What follows `a=candidate:` in SDP (RFC 8839 5.1), one string for each candidate."""
        return [candidate.to_sdp() for candidate in self.local_candidates]

    async def gather_candidates(self) -> None:
        """Be reachable from now on. Raises ConnectionError where the registry refuses."""
        if self._is_closed:
            raise ConnectionError("this connection is closed")
        for credentials in self._generations:
            self._registry.add(self, credentials)
        self._is_gathered = True

    async def add_remote_candidate(self, candidate: Candidate | None) -> None:
        """Nothing to do: the peer's checks say where they come from."""

    async def connect(self) -> None:
        """Wait for the first nomination. Raises ConnectionError when it does not come in time, or is closed."""
        if self.remote_is_lite:
            raise ConnectionError("the peer is ICE-lite, too: nobody would send checks")
        if self._is_closed or not self._is_gathered:
            raise ConnectionError("cannot connect: closed, or its candidates were not gathered")
        if self._is_established:
            return
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_future()
            self._connect_by_ns = self._registry.now_ns() + self._registry.connect_ns
        await asyncio.shield(self._connecting)

    async def recv(self) -> bytes:
        """The next datagram of DTLS or SRTCP; one caller at a time. Raises ConnectionError once closed."""
        while not self._inbox:
            if self._is_closed:
                raise ConnectionError("this connection is closed")
            self._fetching = asyncio.get_running_loop().create_future()
            await self._fetching
        return self._inbox.popleft()

    async def send(self, data: bytes) -> None:
        """As `send_now`, but raises ConnectionError when closed, or if there never was a path."""
        if self._is_closed or not self._is_established:
            raise ConnectionError("cannot send: no path was nominated, or closed")
        self.send_now(data)

    async def get_event(self) -> ConnectionEvent | None:
        """Its end; also after it, unlike aioice, whose None would make aiortc's monitor spin."""
        if self._is_closed:
            return ConnectionClosed()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._closing)

    async def close(self) -> None:
        """For good; harmless when repeated."""
        self.shut()

    # What the pacer calls

    def send_now(self, data: bytes) -> bool:
        """One datagram on the nominated path; False, counted, without path or consent, or if the socket refuses."""
        path = self._path
        if path is None or self._is_expired:
            self._registry.counters.unsent += 1
            return False
        return path.send(data)

    # What the server calls

    def receive(self, data: bytes, arrival_ns: int) -> None:
        """A datagram from one of our paths that is no STUN; told apart by RFC 7983 and RFC 5761."""
        first = data[0]
        if 127 < first < 192 and len(data) > 1:
            if not 63 < data[1] & 0x7F < 96:
                on_rtp = self.on_rtp
                if on_rtp is None:
                    self._registry.counters.early_rtp += 1
                else:
                    on_rtp(data, arrival_ns)
                return
        elif not 19 < first < 64:
            self._registry.counters.unexpected += 1
            return
        self._put(data)

    def hear(self, request: BindingRequest, credentials: Credentials, path: Path, now_ns: int) -> bool:
        """An authenticated check. False: it is to be left unanswered, since this path cannot be believed."""
        is_new = request.transaction_id not in self._seen
        if not is_new and self._seen[request.transaction_id] != path.address:
            self._registry.counters.replays += 1
            return False
        if path.connection is not self and not self._learn(path, now_ns):
            return False
        path.heard_ns = self.heard_ns = now_ns
        self._remember(request.transaction_id, path)
        self._retire_before(credentials)
        if request.use_candidate and is_new:  # a repeated check must not undo a later nomination
            self._nominate(path)
        self._revive()
        return True

    def lose(self, path: Path) -> None:
        """This path is gone, or another's; the peer will nominate another."""
        if path in self._paths:
            self._paths.remove(path)
        if path is self._path:
            self._path = None

    def check_time(self, now_ns: int) -> None:
        """To be called a few times a second: the limits of connecting and of consent."""
        connecting = self._connecting
        if connecting is not None and not connecting.done() and now_ns >= self._connect_by_ns:
            self._registry.counters.connects_timed_out += 1
            self._fail_connecting(
                f"the peer nominated no path within {self._registry.connect_ns / SECOND_NS:g} s"
            )
        self._is_expired = now_ns - self.heard_ns > EXPIRY_NS
        if self.alive and now_ns - max(self.heard_ns, self.media_ns) > self._registry.consent_ns:
            self.alive = False
            self._registry.counters.consents_lost += 1
            self._is_away = self._is_established
            if self.on_dead is not None and self._is_away:
                self.on_dead()

    def shut(self) -> None:
        """Leave the registry and all paths, and wake who waits."""
        if self._is_closed:
            return
        self._is_closed, self.alive, self._path = True, False, None
        self.on_rtp = self.on_dead = self.on_alive = None
        for credentials in self._generations:
            self._registry.remove(self, credentials)
        self._registry.connections.discard(self)
        for path in self._paths:
            path.leave()
        self._paths.clear()
        self._inbox.clear()
        self._wake()
        self._fail_connecting("closed while connecting")
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(ConnectionClosed())

    def _put(self, data: bytes) -> None:
        """Into the inbox; when that is full the newest is dropped: DTLS, SCTP and RTCP repeat themselves."""
        if len(self._inbox) >= MAX_INBOX:
            self._registry.counters.queue_dropped += 1
            return
        self._inbox.append(data)
        self._wake()

    def _wake(self) -> None:
        fetching, self._fetching = self._fetching, None
        if fetching is not None and not fetching.done():
            fetching.set_result(None)

    def _fail_connecting(self, reason: str) -> None:
        if self._connecting is not None and not self._connecting.done():
            self._connecting.set_exception(ConnectionError(reason))
            self._connecting.exception()  # seen, even if whoever waited was cancelled

    def _learn(self, path: Path, now_ns: int) -> bool:
        """Make this path ours, unless another call was heard on it within the consent time.

        Who knows the password of one call could otherwise take another's media away by a forged source address.
        """
        holder = path.connection
        if holder is not None:
            if now_ns - path.heard_ns <= self._registry.consent_ns:
                self._registry.counters.address_conflicts += 1
                return False
            holder.lose(path)
        if len(self._paths) >= MAX_PATHS:
            self._drop_oldest()
        self._paths.append(path)
        path.join(self)
        self._registry.counters.paths_learned += 1
        return True

    def _drop_oldest(self) -> None:
        oldest = min((path for path in self._paths if path is not self._path), key=lambda path: path.heard_ns)
        self._paths.remove(oldest)
        oldest.leave()
        self._registry.counters.paths_dropped += 1

    def _remember(self, transaction_id: bytes, path: Path) -> None:
        if len(self._seen) >= MAX_SEEN and transaction_id not in self._seen:
            del self._seen[next(iter(self._seen))]
        self._seen[transaction_id] = path.address

    def _retire_before(self, credentials: Credentials) -> None:
        while len(self._generations) > 1 and self._generations[0] is not credentials:
            self._registry.remove(self, self._generations.pop(0))

    def _nominate(self, path: Path) -> None:
        if path is not self._path:
            self._registry.counters.switches += self._path is not None
            self._path = path
        self._is_established = True
        if self._connecting is not None and not self._connecting.done():
            self._connecting.set_result(None)

    def _revive(self) -> None:
        self.alive, self._is_expired = True, False
        was_away, self._is_away = self._is_away, False
        if self.on_alive is not None and was_away:
            self.on_alive()


def _random(characters: int) -> str:
    return "".join(secrets.choice(ICE_CHARACTERS) for _ in range(characters))
