"""A call by hand, for what our own caller does not do: hold, INFO, and a look at each answer's status.

Blocking, one thread, one call. Between two requests `talk` sends and receives RTP at its pace. The one rule: every
request waits for its final answer, and a wait is bounded.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import time
from types import TracebackType

from gateway.caller.messages import Address, Message, parse_message, parse_uri
from gateway.caller.sdp import RemoteAudio, describe, parse_audio
from gateway.caller.stream import open_rtp_socket
from media.rtp import dtmf_event

ANSWER_S = 5.0
FRAME_NS, FRAME_TICKS = 20_000_000, 160
SILENCE = b"\xff" * FRAME_TICKS  # mu-law
TELEPHONE_EVENT = 101
_HEADER = struct.Struct("!BBHII")


class RawCall:
    """One call to `uri` over UDP, PCMU with telephone events. A context manager: INVITE, and BYE at the end."""

    def __init__(self, uri: str, sound_host: str = "127.0.0.1", user: str = "raw") -> None:
        """`user` is who calls."""
        self._user = user
        self._target = parse_uri(uri)
        self._sip = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sip.bind(("127.0.0.1", 0))
        self._rtp, self._sound_host = open_rtp_socket(sound_host), sound_host
        self._local: Address = self._sip.getsockname()[:2]
        self._rng = random.SystemRandom()
        self._tag, self.call_id = self._token(), f"{self._token()}@127.0.0.1"
        self._to = f"<{self._target.text}>"
        self._remote_uri = self._target.text
        self._routes: list[str] = []
        self._up = False
        self._provisional: list[int] = []
        self._cseq = self._version = self._payload_type = 0
        self._sequence, self._ticks = self._rng.getrandbits(16), self._rng.getrandbits(32)
        self._ssrc = self._rng.getrandbits(32)
        self.audio: RemoteAudio | None = None
        self.received_ns: list[int] = []  # arrival of every RTP packet, monotonic

    def __enter__(self) -> RawCall:
        status = self.negotiate("sendrecv")
        assert status == 200, status
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(TimeoutError):
            self.bye()
        self.close()

    def close(self) -> None:
        """Without a word."""
        self._sip.close()
        self._rtp.close()

    # -- requests

    def negotiate(self, direction: str, codec: str = "PCMU", payload_type: int = 0, *, host: str = "") -> int:
        """INVITE, or re-INVITE, with `sendrecv`, `sendonly` (hold) ...; the final status. `host` is another
        address for our sound than where it is."""
        self._version += 1
        port = self._rtp.getsockname()[1]
        host = host or self._sound_host
        body = describe(host, port, codec, payload_type, version=self._version, direction=direction)
        answer = self._ask("INVITE", body, "application/sdp")
        if 200 <= answer.status < 300:
            self._to = answer.header("to")
            # the route set is that of the first answer (RFC 3261 section 12.2)
            self._routes = self._routes or answer.values("record-route")[::-1]
            self._up = True
            self._payload_type = payload_type
            self._remote_uri = parse_uri(answer.header("contact")).text
            self.audio = parse_audio(answer.body)
            self._send(self._request("ACK", cseq=answer.cseq[0]))
        return answer.status

    def info(self, content_type: str, body: bytes) -> int:
        """INFO (RFC 6086); the final status."""
        return self._ask("INFO", body, content_type).status

    def options(self) -> int:
        """OPTIONS within the call; the final status."""
        return self._ask("OPTIONS").status

    def refer(self, target: str) -> int:
        """REFER (RFC 3515): ask to be called elsewhere; the final status."""
        return self._ask("REFER", extra=("refer-to", f"<{target}>")).status

    def provisional(self) -> list[int]:
        """Provisional answers to the INVITE so far."""
        return self._provisional

    def bye(self) -> int:
        """BYE; the final status. A second one is not sent."""
        if not self._up:
            return 0
        self._up = False
        return self._ask("BYE").status

    # -- media

    def talk(self, seconds: float, payload: bytes = SILENCE) -> int:
        """Silence, or what is given, for so long, in packets of 20 ms; how many came back meanwhile."""
        before = len(self.received_ns)
        for _ in range(round(seconds * 50)):
            self._send_rtp(self._payload_type, payload, marker=False)
            self._ticks += FRAME_TICKS
            self._listen_until(time.monotonic_ns() + FRAME_NS)
        return len(self.received_ns) - before

    def lose(self, packets: int) -> None:
        """So many packets of 20 ms do not arrive."""
        self._sequence = (self._sequence + packets) & 0xFFFF
        self._ticks += packets * FRAME_TICKS
        self._listen_until(time.monotonic_ns() + packets * FRAME_NS)

    def press(self, digit: str) -> None:
        """One digit by RFC 4733: 100 ms, its end said three times, then 100 ms of silence."""
        for frame in range(1, 8):
            event = dtmf_event(digit, min(frame, 5) * FRAME_TICKS, end=frame >= 5)
            self._send_rtp(TELEPHONE_EVENT, event.serialise(), marker=frame == 1)
            if frame < 5:
                self._listen_until(time.monotonic_ns() + FRAME_NS)
        self._ticks += 5 * FRAME_TICKS
        self.talk(0.1)

    def press_over(self, digit: str, packets: list[int]) -> None:
        """The same over a line that has these of its seven packets arrive, in this order, none with a marker."""
        first = self._sequence
        for packet in packets:
            self._sequence = (first + packet - 1) & 0xFFFF
            event = dtmf_event(digit, min(packet, 5) * FRAME_TICKS, end=packet >= 5)
            self._send_rtp(TELEPHONE_EVENT, event.serialise(), marker=False)
            self._listen_until(time.monotonic_ns() + FRAME_NS)
        self._sequence = (first + 7) & 0xFFFF
        self._ticks += 7 * FRAME_TICKS
        self.talk(0.1)

    def _send_rtp(self, payload_type: int, payload: bytes, *, marker: bool) -> None:
        assert self.audio is not None
        self._sequence = (self._sequence + 1) & 0xFFFF
        second = payload_type | (0x80 if marker else 0)
        header = _HEADER.pack(0x80, second, self._sequence, self._ticks & 0xFFFFFFFF, self._ssrc)
        self._rtp.sendto(header + payload, (self.audio.host, self.audio.port))

    def _listen_until(self, deadline_ns: int) -> None:
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            if select.select([self._rtp], [], [], left_ns / 1e9)[0]:
                with contextlib.suppress(OSError):
                    self._rtp.recv(2048)
                    self.received_ns.append(time.monotonic_ns())

    # -- SIP

    def _ask(
        self, method: str, body: bytes = b"", content_type: str = "", extra: tuple[str, str] | None = None
    ) -> Message:
        """Send until there is a final answer (RFC 3261 timer A). TimeoutError without one."""
        self._cseq += 1
        request = self._request(method, body, content_type, extra=extra)
        deadline_s, interval_s, provisional = time.monotonic() + ANSWER_S, 0.5, False
        while time.monotonic() < deadline_s:
            if not provisional:
                self._send(request)
            until_s = min(deadline_s, time.monotonic() + interval_s)
            interval_s *= 2
            while (left_s := until_s - time.monotonic()) > 0:
                if not select.select([self._sip], [], [], left_s)[0]:
                    continue
                answer = parse_message(self._sip.recv(65535))
                if answer is None or answer.cseq != (self._cseq, method):
                    continue
                if answer.status >= 200:
                    return answer
                provisional = provisional or method == "INVITE"
                self._provisional.append(answer.status)
        raise TimeoutError(f"no final answer to {method} within {ANSWER_S} s")

    def _request(
        self,
        method: str,
        body: bytes = b"",
        content_type: str = "",
        cseq: int | None = None,
        extra: tuple[str, str] | None = None,
    ) -> Message:
        host, port = self._local
        headers = [
            ("via", f"SIP/2.0/UDP {host}:{port};rport;branch=z9hG4bK{self._token()}"),
            ("max-forwards", "70"),
            *(("route", route) for route in self._routes),
            ("from", f"<sip:{self._user}@{host}>;tag={self._tag}"),
            ("to", self._to),
            ("call-id", self.call_id),
            ("cseq", f"{cseq or self._cseq} {method}"),
            ("contact", f"<sip:{self._user}@{host}:{port}>"),
        ]
        if extra:
            headers.append(extra)
        if content_type:
            headers.append(("content-type", content_type))
        return Message(method=method, uri=self._remote_uri, headers=tuple(headers), body=body)

    def _send(self, request: Message) -> None:
        hop = parse_uri(self._routes[0]).address if self._routes else self._target.address
        self._sip.sendto(request.serialise(), hop)

    def _token(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"
