"""RTP as it leaves and as it is kept."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from gateway.caller import arrival
from gateway.caller.stream import RtpStream, open_rtp_socket
from media.rtp import RtpPacket, parse_packet, parse_telephone_event


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with open_rtp_socket("127.0.0.1") as ours, open_rtp_socket("127.0.0.1") as theirs:
        yield ours, theirs


def stream(pair: tuple[socket.socket, socket.socket], packets: int, dtmf: str = "") -> RtpStream:
    ours, theirs = pair
    payload = bytes(n % 256 for n in range(packets) for _ in range(160))
    return RtpStream(
        ours, theirs.getsockname(), payload, 0, ssrc=5, sequence=65_534, timestamp=2**32 - 160, dtmf=dtmf,
        dtmf_start_packet=2,
    )  # fmt: skip


def sent(pair: tuple[socket.socket, socket.socket]) -> list[RtpPacket]:
    packets = []
    while True:
        try:
            packet = parse_packet(pair[1].recv(2048))
        except BlockingIOError:
            return packets
        assert isinstance(packet, RtpPacket)
        packets.append(packet)


def test_counters_wrap_and_the_first_packet_is_marked(pair: tuple[socket.socket, socket.socket]) -> None:
    source = stream(pair, 4)
    while not source.finished:
        source.send_next()
    packets = sent(pair)
    assert [p.sequence for p in packets] == [65534, 65535, 0, 1]
    assert [p.timestamp for p in packets] == [2**32 - 160, 0, 160, 320]
    assert [p.marker for p in packets] == [True, False, False, False]
    assert [p.payload[0] for p in packets] == [0, 1, 2, 3]
    assert list(source.sent_ns) == sorted(source.sent_ns)
    assert list(source.audio_sent) == [1] * 4


def test_a_digit_is_five_frames_and_its_end_three_times(pair: tuple[socket.socket, socket.socket]) -> None:
    source = stream(pair, 12, dtmf="7")
    while not source.finished:
        source.send_next()
    packets = sent(pair)
    assert [p.payload_type for p in packets] == [0] * 2 + [101] * 7 + [0] * 3
    events = [parse_telephone_event(p.payload) for p in packets[2:9]]
    assert [e.duration for e in events] == [160, 320, 480, 640, 800, 800, 800]
    assert [e.end for e in events] == [False] * 4 + [True] * 3
    assert {e.digit for e in events} == {"7"}
    assert {p.timestamp for p in packets[2:9]} == {160}
    assert [p.marker for p in packets[2:9]] == [True] + [False] * 6
    assert [p.sequence for p in packets] == [(65_534 + n) % 65_536 for n in range(12)]
    assert packets[9].timestamp == 160 * 8
    assert sum(source.audio_sent) == 5


def test_on_hold_the_schedule_goes_on_unsent(pair: tuple[socket.socket, socket.socket]) -> None:
    source = stream(pair, 3)
    source.send_next()
    remote, source.remote = source.remote, None
    source.send_next()
    source.remote = remote
    source.send_next()
    assert [p.sequence for p in sent(pair)] == [65534, 0]
    assert list(source.audio_sent) == [1, 0, 1]


def spin_until(then_ns: int) -> None:
    while time.monotonic_ns() < then_ns:
        pass


def offset_ns() -> int:
    """Of the two clocks; a process that is interrupted between their readings gets less."""
    return max(arrival.wall_to_monotonic_ns() for _ in range(8))


def wait_for_the_kernels_stamps(pair: tuple[socket.socket, socket.socket]) -> None:
    """The kernel stamps datagrams a while after the first socket of the machine asked for it; before that they are
    stamped when they are read. So probes are sent until one is stamped before its reading."""
    ours, theirs = pair
    for _ in range(1_000):
        theirs.sendto(b"probe", ours.getsockname())
        sent_ns = time.monotonic_ns()
        spin_until(sent_ns + 2_000_000)
        read_ns = time.monotonic_ns()
        _, ancillary, _, _ = ours.recvmsg(2048, 64)
        if arrival.arrival_ns(ancillary, offset_ns()) < read_ns - 1_000_000:
            return
    pytest.fail("none of 1,000 datagrams bears the kernel's time of arrival")


def test_arrivals_are_the_kernels_not_those_of_our_reading(pair: tuple[socket.socket, socket.socket]) -> None:
    wait_for_the_kernels_stamps(pair)
    ours, theirs = pair
    source = stream(pair, 1)
    before_ns = time.monotonic_ns()
    theirs.sendto(b"one", ours.getsockname())
    theirs.sendto(b"two", ours.getsockname())
    after_ns = time.monotonic_ns()
    spin_until(after_ns + 5_000_000)
    source.receive_all(offset_ns())
    assert source.datagrams == [b"one", b"two"]
    for arrival_ns in source.arrivals_ns:
        assert before_ns - 1_000_000 <= arrival_ns <= after_ns + 1_000_000


def test_ports_are_even() -> None:
    for _ in range(5):
        with open_rtp_socket("127.0.0.1") as sock:
            assert sock.getsockname()[1] % 2 == 0
