"""The control socket, driven by hand: one packet a `serve`."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from media.leases import (
    MAX_BYTES,
    Attached,
    CaughtUp,
    Hello,
    Lease,
    Leased,
    Leave,
    Refused,
    Release,
    Stats,
    StatsRequest,
    decode,
    encode,
)
from media.slots import SlotTable
from media.turn_log import MAX_LOG_BYTES
from model_server.control import MAX_PEERS, AlreadyServing, Control
from model_server.metrics import Counters


class Desk:
    def __init__(self) -> None:
        self.heard: list[object] = []
        self.pasts: list[bytes] = []

    def lease(self, worker: int, wish: Lease, past: bytes = b"") -> Leased | Refused:
        self.heard.append((worker, wish))
        self.pasts.append(past)
        return Leased(wish.call, 3, 1, 2, 5)

    def release(self, worker: int, notice: Release) -> None:
        self.heard.append((worker, notice))

    def gone(self, worker: int) -> None:
        self.heard.append((worker, "gone"))

    def leave(self, to: str) -> None:
        self.heard.append(to)

    def stats(self) -> Stats:
        return Stats({"counters": {}})


class Office:
    def __init__(self, path) -> None:
        self.path, self.desk, self.counters = path, Desk(), Counters()
        self.table = SlotTable.create(2)
        self.control = Control(path, self.table, "echo", self.desk, self.counters)
        self.peers: list[socket.socket] = []

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(5)
        self.peers.append(sock)
        sock.connect(str(self.path))
        self.settle()
        return sock

    def say(self, sock: socket.socket, packet: bytes) -> bytes:
        sock.send(packet)
        self.settle()
        return sock.recv(MAX_BYTES)

    def hello(self, sock: socket.socket) -> list[int]:
        sock.send(encode(Hello("w", 1)))
        self.settle()
        packet, fds, _, _ = socket.recv_fds(sock, MAX_BYTES, 5)
        assert decode(packet) == Attached(self.table.epoch, "echo")
        return fds

    def settle(self) -> None:
        while self.control.serve(0):
            pass

    def close(self) -> None:
        for sock in self.peers:
            sock.close()
        self.control.close()
        self.table.close()


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path / "run" / "s")
    yield office
    office.close()


@pytest.fixture
def open_fds():
    kept: list[int] = []
    yield kept
    for fd in kept:
        os.close(fd)


def test_only_this_user_can_reach_it(office):
    assert stat.S_IMODE(office.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(office.path.stat().st_mode) == 0o600


def test_hello_gets_the_table_and_two_doorbells(office, open_fds):
    sock = office.connect()
    open_fds += office.hello(sock)
    assert len(open_fds) == 3
    table = SlotTable.attach(os.dup(open_fds[0]))
    assert table.epoch == office.table.epoch
    table.close()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(open_fds[2])
    office.control.ring(1)
    office.control.ring(99)
    assert os.eventfd_read(open_fds[2]) == 1
    assert office.control.workers == 1


def test_wishes_reach_the_desk_and_answers_the_worker(office, open_fds):
    sock = office.connect()
    open_fds += office.hello(sock)
    assert decode(office.say(sock, encode(Lease("a")))) == Leased("a", 3, 1, 2, 5)
    sock.send(encode(Release("a", 3, 1)))
    sock.close()
    office.settle()
    assert office.desk.heard == [(1, Lease("a")), (1, Release("a", 3, 1)), (1, "gone")]
    assert office.control.workers == 0


def memfd(content: bytes) -> int:
    fd = os.memfd_create("log")
    os.write(fd, content)
    return fd


def test_a_log_comes_with_its_lease(office, open_fds):
    sock = office.connect()
    open_fds += office.hello(sock)
    open_fds.append(memfd(b"turns"))
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(sock, [encode(Lease("a", turn=3, log=5))], [open_fds[-1]])
    office.settle()
    assert decode(sock.recv(MAX_BYTES)) == Leased("a", 3, 1, 2, 5)
    assert office.desk.pasts == [b"turns"] and len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("told", [-1, 6, MAX_LOG_BYTES + 1])
def test_a_log_that_is_not_as_told_closes_that_peer(office, open_fds, told):
    sock = office.connect()
    open_fds += office.hello(sock)
    open_fds.append(memfd(b"turns"))
    socket.send_fds(sock, [encode(Lease("a", log=told))], [open_fds[-1]])
    office.settle()
    assert sock.recv(MAX_BYTES) == b"" and not office.desk.heard[:-1]
    assert office.counters.messages_bad_total == 1


def test_a_log_that_did_not_come_or_cannot_be_read_closes_that_peer(office, open_fds):
    for descriptors in ([], list(os.pipe())):
        sock = office.connect()
        open_fds += [*office.hello(sock), *descriptors]
        socket.send_fds(sock, [encode(Lease("a", log=5))], descriptors[:1])
        office.settle()
        assert sock.recv(MAX_BYTES) == b""
    assert not office.desk.pasts


def test_an_observer_needs_no_hello(office):
    assert decode(office.say(office.connect(), encode(StatsRequest()))) == Stats({"counters": {}})
    assert office.counters.workers_attached_total == 0


@pytest.mark.parametrize(
    "packet",
    [
        b"rubbish",
        b"x" * (MAX_BYTES + 5),
        encode(Lease("before hello")),
        encode(Leased("a", 1, 1, 1, 1)),
        encode(Hello("other release", 1, protocol=9)),
    ],
)
def test_a_bad_message_closes_that_peer_and_no_other(office, open_fds, packet):
    good, bad = office.connect(), office.connect()
    open_fds += office.hello(good)
    assert office.say(bad, packet) == b""
    assert office.counters.messages_bad_total == 1
    assert decode(office.say(good, encode(Lease("a"))))


def test_a_second_hello_is_a_bad_message(office, open_fds):
    sock = office.connect()
    open_fds += office.hello(sock)
    assert office.say(sock, encode(Hello("w", 1))) == b""


def test_a_peer_that_never_reads_is_closed(office):
    sock = office.connect()
    with pytest.raises(OSError):
        sock.setblocking(False)
        for _ in range(100_000):
            sock.send(encode(StatsRequest()))
            office.settle()
    assert office.desk.heard == [(1, "gone")]


def test_there_is_room_for_so_many_and_the_next_is_closed(office):
    peers = [office.connect() for _ in range(MAX_PEERS)]
    assert office.connect().recv(10) == b""
    assert office.say(peers[0], encode(StatsRequest()))
    peers[1].close()
    office.settle()
    assert office.say(office.connect(), encode(StatsRequest()))


def test_a_live_server_keeps_its_socket(office):
    with pytest.raises(AlreadyServing, match="another model server answers"):
        Control(office.path, office.table, "echo", office.desk, office.counters)
    assert office.say(office.connect(), encode(StatsRequest()))


def test_what_a_dead_server_left_is_replaced(tmp_path):
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(tmp_path / "s"))
    left.close()
    office = Office(tmp_path / "s")
    assert office.say(office.connect(), encode(StatsRequest()))
    office.close()
    assert not (tmp_path / "s").exists()


def test_what_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "s").write_text("precious")
    table = SlotTable.create(1)
    with pytest.raises(ValueError, match="that is no socket"):
        Control(tmp_path / "s", table, "echo", Desk(), Counters())
    assert (tmp_path / "s").read_text() == "precious"
    table.close()


def test_to_leave_is_told_to_all_workers_and_to_those_that_come_later(office):
    first, asker = office.connect(), office.connect()
    office.hello(first)
    assert decode(office.say(asker, encode(Leave("/else/where")))) == Leave("/else/where")
    assert decode(first.recv(MAX_BYTES)) == Leave("/else/where") and office.desk.heard == ["/else/where"]
    later = office.connect()
    office.hello(later)
    assert decode(later.recv(MAX_BYTES)) == Leave("/else/where")
    office.say(asker, encode(Leave()))
    assert decode(first.recv(MAX_BYTES)) == decode(later.recv(MAX_BYTES)) == Leave()
    office.hello(last := office.connect())
    last.setblocking(False)
    with pytest.raises(BlockingIOError):
        last.recv(MAX_BYTES)


def test_a_socket_that_was_given_another_name_is_taken_away_under_that(tmp_path):
    table = SlotTable.create(2)
    now, later = tmp_path / "s.next", tmp_path / "s"
    control = Control(now, table, "echo", Desk(), Counters(), later=later)
    now.rename(later)
    control.close()
    assert not list(tmp_path.iterdir())
    table.close()


def test_one_worker_is_told_and_the_others_are_not(office):
    first, second = office.connect(), office.connect()
    office.hello(first)
    office.hello(second)
    told = CaughtUp("a", 3, 1, 7)
    office.control.tell(2, told)
    office.control.tell(9, told)
    assert decode(second.recv(MAX_BYTES)) == told
    first.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.recv(MAX_BYTES)
