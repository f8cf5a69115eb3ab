"""A caller that asks to be transferred (RFC 3515), and whom it may name: a target that answers, refuses or rings.

Both are blocking and by hand, as `RawCall` is: `talk` hears what the gateway asks and answers it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from gateway.caller.messages import Address, Message, parse_message
from gateway.caller.sdp import describe, parse_audio
from gateway.caller.stream import open_rtp_socket
from media.rtp import RtpPacket, parse_packet
from tests.support.raw_call import RawCall

_ECHOED = ("via", "record-route", "from", "to", "call-id", "cseq")


def answer_to(request: Message, status: int, tag: str = "", body: bytes = b"", contact: str = "") -> Message:
    """What a user agent answers; `tag` goes to a To without one."""
    headers = [(n, v + (f";tag={tag}" if n == "to" and tag and "tag=" not in v else "")) for n, v in
               request.headers if n in _ECHOED]  # fmt: skip
    if contact:
        headers.append(("contact", f"<{contact}>"))
    if body:
        headers.append(("content-type", "application/sdp"))
    return Message(status=status, reason="Answer", headers=tuple(headers), body=body)


class ReferringCall(RawCall):
    """A call that keeps the NOTIFYs of its transfer, and knows when the gateway hung up."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.notified: list[
            tuple[str, str]
        ] = []  # Subscription-State without parameters, first line of sipfrag
        self.hung_up = False
        self._heard: set[tuple[int, str]] = set()

    def __enter__(self) -> ReferringCall:
        super().__enter__()
        return self

    def talk_until(self, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Talk until it holds; TimeoutError with what was notified."""
        for _ in range(round(timeout_s * 10)):
            if holds():
                return
            self.talk(0.1)
        raise TimeoutError(f"not within {timeout_s} s; notified: {self.notified}")

    @property
    def is_decided(self) -> bool:
        """The last NOTIFY has come."""
        return any(state == "terminated" for state, _ in self.notified)

    def longest_gap_ms(self, since_ns: int) -> float:
        """Between two packets of the gateway."""
        times = [t for t in self.received_ns if t >= since_ns]
        return max((b - a for a, b in zip(times, times[1:], strict=False)), default=0) / 1e6

    def _listen_until(self, deadline_ns: int) -> None:
        while select.select([self._sip], [], [], 0)[0]:
            data, source = self._sip.recvfrom(65535)
            request = parse_message(data)
            if request is not None and request.method:
                self._hear(request, source)
        super()._listen_until(deadline_ns)

    def _hear(self, request: Message, source: Address) -> None:
        self._sip.sendto(answer_to(request, 200).serialise(), source)
        if request.cseq in self._heard:
            return
        self._heard.add(request.cseq)
        if request.method == "NOTIFY":
            assert request.header("event").startswith("refer")
            assert request.header("content-type").startswith("message/sipfrag")
            state = request.header("subscription-state").split(";")[0]
            self.notified.append((state, request.body.decode().split("\r\n")[0].strip()))
        elif request.method == "BYE":
            self.hung_up, self._up = True, False


class Target:
    """Who is called: on UDP and TCP at one port of 127.0.0.1. It answers each INVITE with `status` (0: rings),
    and sends every RTP packet back once it talks. A context manager; runs in a thread of its own."""

    def __init__(self, status: int = 200, sound_host: str = "127.0.0.1") -> None:
        self.status, self._sound_host = status, sound_host
        self.requests: list[Message] = []
        self.answered: list[str] = []  # their methods, once an answer has left
        self.packets = 0
        self.sound: deque[bytes] = deque(maxlen=500)  # payloads of the newest 10 s, events left out
        self.events: deque[tuple[int, bytes]] = deque(
            maxlen=500
        )  # time stamp and payload of telephone events
        self.transports: set[str] = set()
        self._udp, self._tcp = self._bind()
        self._rtp = open_rtp_socket(sound_host)
        self._peers: list[socket.socket] = []
        self._ringing: Message | None = None
        self._send: Callable[[bytes], object] = self._rtp.send
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="target", daemon=True)

    @property
    def port(self) -> int:
        """Of SIP."""
        return int(self._udp.getsockname()[1])

    def seen(self, method: str) -> list[Message]:
        """Requests of this method, retransmissions among them."""
        return [request for request in self.requests if request.method == method]

    def answer(self, status: int) -> None:
        """What rings is answered, or refused, after all."""
        self.status = status
        assert self._ringing is not None
        for answer in self._final(self._ringing):
            self._send(answer.serialise())

    def hang_up(self) -> None:
        """BYE (RFC 3261 section 12.2), answered or not."""
        self.ask("BYE", 2)

    def ask(self, method: str, cseq: int, *more: tuple[str, str], body: bytes = b"") -> None:
        """A request within the call, answered or not."""
        invite, way = self.seen("INVITE")[-1], "TCP" if "tcp" in self.transports else "UDP"
        headers = [
            ("via", f"SIP/2.0/{way} 127.0.0.1:{self.port};branch=z9hG4bK{method}{cseq}"),
            ("max-forwards", "70"),
            *(("route", route) for route in invite.values("record-route")),
            ("from", invite.header("to") + ";tag=target"),
            ("to", invite.header("from")),
            ("call-id", invite.call_id),
            ("cseq", f"{cseq} {method}"),
            ("contact", f"<sip:target@127.0.0.1:{self.port}>"),
            *more,
        ]
        contact = invite.header("contact").strip("<>").split(">")[0]
        self._send(Message(method=method, uri=contact, headers=tuple(headers), body=body).serialise())

    def __enter__(self) -> Target:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        for used in (self._udp, self._tcp, self._rtp, *self._peers):
            used.close()

    @staticmethod
    def _bind() -> tuple[socket.socket, socket.socket]:
        for _ in range(32):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            udp.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                tcp.bind(udp.getsockname())
                tcp.listen()
                return udp, tcp
            udp.close()
            tcp.close()
        raise OSError("no port is free for both UDP and TCP")

    def _run(self) -> None:
        while not self._done.is_set():
            for ready in select.select(
                [self._udp, self._tcp, *self._listening(), *self._peers], [], [], 0.05
            )[0]:
                if ready is self._tcp:
                    self._peers.append(self._tcp.accept()[0])
                elif ready is self._rtp:
                    self._hear(*self._rtp.recvfrom(2048))
                elif ready is self._udp:
                    data, source = self._udp.recvfrom(65535)
                    self.transports.add("udp")
                    self._take(data, lambda out, to=source: self._udp.sendto(out, to))  # type: ignore[misc]
                else:
                    data = ready.recv(
                        65535
                    )  # one message each: loopback, and a gateway that writes them whole
                    self.transports.add("tcp")
                    if data:
                        self._take(data, ready.sendall)
                    else:
                        self._peers.remove(ready)
                        ready.close()

    def _listening(self) -> list[socket.socket]:
        """Where packets of sound are taken here."""
        return [self._rtp]

    def _hear(self, data: bytes, source: tuple[str, int]) -> None:
        """A packet; it is sent back."""
        self._rtp.sendto(data, source)
        self.packets += 1
        self._note(data)

    def _note(self, data: bytes) -> None:
        packet = parse_packet(data)
        if isinstance(packet, RtpPacket) and packet.payload_type < 96:
            self.sound.append(packet.payload)
        elif isinstance(packet, RtpPacket):
            self.events.append((packet.timestamp, packet.payload))

    def _take(self, data: bytes, send: Callable[[bytes], object]) -> None:
        request = parse_message(data)
        if request is None or not request.method:
            return
        self._send = send
        self.requests.append(request)
        answers = [answer_to(request, 200, "target")]
        if request.method == "ACK":
            return
        if request.method == "INVITE":
            answers = [answer_to(request, 180, "target"), *self._final(request)]
        elif request.method == "CANCEL" and self._ringing is not None:
            answers.append(answer_to(self._ringing, 487, "target"))
        for answer in answers:
            send(answer.serialise())
        self.answered.append(request.method)

    def _final(self, invite: Message) -> list[Message]:
        self._ringing = None if self.status else invite
        if self.status != 200:
            return [answer_to(invite, self.status, "target")] if self.status else []
        offer = parse_audio(invite.body)
        assert offer is not None
        body = describe(self._sound_host, self._rtp.getsockname()[1], "PCMU", 0)
        contact = f"sip:target@127.0.0.1:{self.port}" + (";transport=tcp" if "tcp" in self.transports else "")
        return [answer_to(invite, 200, "target", body, contact)]
