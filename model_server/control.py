"""The control socket: the model server's end of `media.leases`, on one epoll set.

It accepts workers, passes them the table and two doorbells, and hands their wishes to the `Desk`. It knows no
slot and no call. Its one rule: a peer that says something that is not in the protocol, or does not read
what we say, is closed with a reason in the log, and the others are not touched.

Doorbells: one eventfd per worker and direction. The worker's (outbound) is rung once a tick. Ours (inbound)
is passed for engines that may step before a tick; the turn clock needs none, so nobody waits on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from media.leases import (
    MAX_BYTES,
    PROTOCOL,
    Attached,
    BadMessage,
    Hello,
    Lease,
    Leased,
    Leave,
    Message,
    Refused,
    Release,
    Stats,
    StatsRequest,
    decode,
    encode,
)
from media.slots import SlotTable
from media.turn_log import MAX_LOG_BYTES
from model_server.metrics import Counters

MAX_PEERS = 64
"""Workers and observers together; a node has a few."""

log = structlog.get_logger()


class AlreadyServing(ValueError):
    """Another live model server answers on the socket path."""


class Desk(Protocol):
    """Who decides. `worker` is the number that the control socket gave to a connection."""

    def lease(self, worker: int, wish: Lease, past: bytes = b"") -> Leased | Refused: ...

    def release(self, worker: int, notice: Release) -> None: ...

    def gone(self, worker: int) -> None: ...

    def leave(self, to: str) -> None: ...

    def stats(self) -> Stats: ...


@dataclass(slots=True)
class _Peer:
    number: int
    sock: socket.socket
    name: str = ""
    inbound_bell: int = -1
    outbound_bell: int = -1

    @property
    def attached(self) -> bool:
        return self.outbound_bell >= 0


class Control:
    """Listens from birth until `close`. `ValueError` (such as `AlreadyServing`) when it cannot."""

    def __init__(
        self,
        path: Path,
        table: SlotTable,
        engine: str,
        desk: Desk,
        counters: Counters,
        *,
        later: Path | None = None,
    ) -> None:
        """`later` is the name that others may give to the socket while we serve."""
        self._paths, self._table, self._engine = {path, later or path}, table, engine
        self._desk, self._counters = desk, counters
        self._leaving = Leave()
        self._listener = listen(path)
        self._inode = os.stat(path).st_ino
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._peers: dict[int, _Peer] = {}
        self._numbers = 0

    @property
    def workers(self) -> int:
        """How many have said Hello."""
        return sum(peer.attached for peer in self._peers.values())

    def serve(self, timeout_s: float) -> bool:
        """Wait for one packet or connection and deal with it; False when none came in time.

        One at a time, so that the caller can look at its clock in between. The kernel rounds the timeout up
        to whole milliseconds.
        """
        ready = self._epoll.poll(timeout_s, 1)
        for fd, _ in ready:
            if fd == self._listener.fileno():
                self._accept()
            else:
                self._receive(self._peers[fd])
        return bool(ready)

    def ring(self, worker: int) -> None:
        """Wake that worker: its outbound rings have rows. Nothing happens when it is gone."""
        for peer in self._peers.values():
            if peer.number == worker and peer.attached:
                with contextlib.suppress(BlockingIOError):  # 2**64 - 2 rings unheard
                    os.eventfd_write(peer.outbound_bell, 1)

    def tell(self, worker: int, message: Message) -> None:
        """To that worker, if it is there; one that does not read what we say is closed."""
        for peer in list(self._peers.values()):
            if peer.number == worker and peer.attached:
                self._send(peer, message)

    def close(self) -> None:
        """Stop listening, take the socket file away if it is still ours, hang up on everybody."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == self._inode:
                    path.unlink()
        self._listener.close()
        for peer in list(self._peers.values()):
            self._forget(peer)
        self._epoll.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # the peer has already hung up, or we are out of descriptors
            log.warning("connection not accepted", error=str(error))
            return
        if len(self._peers) >= MAX_PEERS:
            log.warning("connection refused", reason=f"{MAX_PEERS} peers are connected")
            sock.close()
            return
        sock.setblocking(False)
        self._numbers += 1
        self._peers[sock.fileno()] = _Peer(self._numbers, sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _receive(self, peer: _Peer) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(peer.sock, MAX_BYTES + 1, 1)
        except BlockingIOError:
            return
        except OSError as error:
            self._hang_up(peer, str(error))
            return
        if not packet:
            self._hang_up(peer, "end of file")
            return
        try:
            message = decode(packet)
            self._answer(peer, message, _past_of(message, descriptors))
        except BadMessage as wrong:
            self._counters.messages_bad_total += 1
            self._hang_up(peer, str(wrong))
        except OSError as error:
            self._hang_up(peer, f"does not take our answer: {error}")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _answer(self, peer: _Peer, message: Message, past: bytes) -> None:
        match message:
            case StatsRequest():
                peer.sock.send(encode(self._desk.stats()))
            case Hello():
                self._attach(peer, message)
            case Lease() if peer.attached:
                peer.sock.send(encode(self._desk.lease(peer.number, message, past)))
            case Release() if peer.attached:
                self._desk.release(peer.number, message)
            case Leave():
                self._leave(peer, message)
            case _:
                expected = (
                    "Lease, Release, Leave or StatsRequest"
                    if peer.attached
                    else "Hello, Leave or StatsRequest"
                )
                raise BadMessage(f"{type(message).__name__} is out of place: expected {expected}")

    def _attach(self, peer: _Peer, hello: Hello) -> None:
        if peer.attached:
            raise BadMessage("a second Hello on one connection")
        if hello.protocol != PROTOCOL:
            raise BadMessage(
                f"protocol {hello.protocol}, expected {PROTOCOL}: "
                "run the same release of microturn on both sides"
            )
        peer.name = f"{hello.worker} ({hello.pid})"
        peer.inbound_bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        peer.outbound_bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        answer = encode(Attached(self._table.epoch, self._engine))
        socket.send_fds(peer.sock, [answer], [self._table.fd, peer.inbound_bell, peer.outbound_bell])
        self._counters.workers_attached_total += 1
        if self._leaving.to:
            peer.sock.send(encode(self._leaving))
        log.debug("worker attached", worker=peer.name)

    def _leave(self, asker: _Peer, message: Leave) -> None:
        """All workers shall move their calls, also those that attach later; the asker hears it, too."""
        self._leaving = message
        self._desk.leave(message.to)
        for peer in list(self._peers.values()):
            if peer.attached or peer is asker:
                self._send(peer, message)

    def _send(self, peer: _Peer, message: Message) -> None:
        try:
            peer.sock.send(encode(message))
        except OSError as error:
            self._hang_up(peer, f"does not take what we say: {error}")

    def _hang_up(self, peer: _Peer, reason: str) -> None:
        if peer.attached:
            self._counters.workers_gone_total += 1
            log.debug("worker gone", worker=peer.name, reason=reason)
        elif reason != "end of file":
            log.warning("peer closed", reason=reason)
        self._forget(peer)
        self._desk.gone(peer.number)

    def _forget(self, peer: _Peer) -> None:
        del self._peers[peer.sock.fileno()]
        self._epoll.unregister(peer.sock.fileno())
        peer.sock.close()
        for bell in (peer.inbound_bell, peer.outbound_bell):
            if bell >= 0:
                os.close(bell)


def _past_of(message: Message, descriptors: list[int]) -> bytes:
    """The turns that came along with a lease, packed. Read, not mapped: its writer may shrink it."""
    if not isinstance(message, Lease) or not message.log:
        return b""
    if not descriptors or not 0 < message.log <= MAX_LOG_BYTES:
        raise BadMessage(f"log = {message.log}: give a memfd with at most {MAX_LOG_BYTES} bytes")
    past = os.pread(descriptors[0], message.log, 0)
    if len(past) != message.log:
        raise BadMessage(f"log = {message.log}, but {len(past)} bytes are there")
    return past


def listen(path: Path) -> socket.socket:
    """A listening control socket that only this user can reach.

    The directory is created 0700, what a dead server left is replaced. `AlreadyServing` when a live one
    answers, `ValueError` when something that is no socket is in the way.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one_here(path.parent):
        _clear(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(umask)
        listener.listen(MAX_PEERS)
    return listener


@contextlib.contextmanager
def _only_one_here(directory: Path) -> Iterator[None]:
    """Two servers that start together do not take each other's fresh socket for a stale one."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _clear(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ValueError(f"socket = {str(path)!r}: that is no socket; move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: alive
    raise AlreadyServing(
        f"socket = {str(path)!r}: another model server answers there; stop it or choose another path"
    )
