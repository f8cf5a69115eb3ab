"""What carries one browser call: ICE-lite, DTLS-SRTP and SCTP, bundled. The one place that leans on aiortc.

Of aiortc's DTLS and SCTP transports these names are private, pinned by `aiortc==1.16.*` and held by
tests/gateway/webrtc/test_aiortc.py:

    RTCDtlsTransport   _recv and _send of the ICE transport that it is given, _set_role, _setup_srtp,
                       _handle_rtcp_data, _rx_srtp and _tx_srtp (pylibsrtp sessions)
    RTCCertificate     _create_ssl_context (`certificate.py`)
    RTCSctpTransport   _data_channel_send by way of RTCDataChannel.send, which is public; sctp.py has more

RTP never sees aiortc: it goes from the datagram through libsrtp to `Events.rtp`, pictures at once, speech a few
packets at a time. RTCP and SCTP come through aiortc's own loop, behind the doors of dtls_door.py and sctp.py. Bytes
that a door, libsrtp or a parser refuses are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import pylibsrtp
from aiortc import (
    RTCCertificate,
    RTCDataChannel,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
    RTCSctpCapabilities,
)

from gateway.webrtc.dtls_door import MAX_SRTP_BYTES, Sources, records
from gateway.webrtc.ice_connection import LiteConnection
from gateway.webrtc.offer import Offer
from gateway.webrtc.sctp import Sctp
from gateway.webrtc.srtp import Process, protector, refuse, rtcp_protector, unprotector
from media.rtp import HEADER_BYTES, BadPacket, RtpPacket, parse_packet

LABEL = "microturn"
MOST_HELD = 5
"""Packets of speech that are looked at together: one behind the other they cost a quarter less, since what the next
needs is at hand. At 20 ms each that is half a turn; what waits when the turn is cut is looked at then."""
HANDSHAKE_S = 15.0
"""From the first nominated path to keys; a lost flight is sent again after 1, 2 and 4 s."""


@dataclass(slots=True)
class TransportCounters:
    """Of one worker process."""

    srtp_refused: int = 0
    """Not authentic, or replayed."""
    rtp_malformed: int = 0
    rtcp_malformed: int = 0
    rtp_unsent: int = 0
    sources_refused: int = 0
    """Packets of one SSRC too many for one browser."""
    sctp_refused: int = 0
    """Packets that are malformed, too many, or more than a channel may hold."""
    sctp_failed: int = 0
    """Packets that aiortc raised for."""
    handshakes_timed_out: int = 0
    channels_refused: int = 0


class Events(Protocol):
    """What a transport tells its call; all of it in the loop's thread."""

    def connected(self) -> None: ...
    def rtp(self, packet: RtpPacket, arrival_ns: int) -> None: ...
    def rtcp(self, data: bytes, arrival_ns: int) -> None: ...
    def channel_opened(self, wire: RTCDataChannel) -> None: ...
    def away(self) -> None:
        """Nothing has been heard of the browser for the consent time."""
        ...

    def back(self) -> None:
        """It is heard again."""
        ...

    def closed(self, reason: str) -> None:
        """Once, and nothing follows."""
        ...


class _Ice:
    """As much of an ICE transport as aiortc's DTLS asks for."""

    role = "controlled"

    def __init__(self, connection: LiteConnection, sources: Sources, counters: TransportCounters) -> None:
        self._fetch, self._send = connection.recv, connection.send
        self._sources, self._counters = sources, counters
        self._records: deque[bytes] = deque()  # of one datagram

    async def _recv(self) -> bytes:
        """One DTLS record, or one SRTCP packet."""
        while not self._records:
            data = await self._fetch()
            if data[0] < 64:
                self._records.extend(records(data))
            elif len(data) > MAX_SRTP_BYTES:
                self._counters.srtp_refused += 1
            elif self._sources.admits(data[4:8]):
                return data
            else:
                self._counters.sources_refused += 1
        return self._records.popleft()


class _Dtls(RTCDtlsTransport):
    """aiortc's DTLS, which says when keys are there and gives RTCP away undecoded."""

    def __init__(self, ice: Any, certificate: RTCCertificate, owner: Transport) -> None:
        super().__init__(ice, [certificate])
        self._owner = owner

    def _setup_srtp(self) -> None:
        super()._setup_srtp()
        if self._rx_srtp is not None:
            self._owner.keyed(self._rx_srtp, self._tx_srtp)

    async def _handle_rtcp_data(self, data: bytes) -> None:
        self._owner.sources.note(data[4:8])
        self._owner.events.rtcp(data, time.monotonic_ns())


class Transport:
    """One bundled transport, from its offer to its end."""

    def __init__(
        self,
        connection: LiteConnection,
        certificate: RTCCertificate,
        offer: Offer,
        events: Events,
        counters: TransportCounters,
    ) -> None:
        self.connection, self.events, self.counters = connection, events, counters
        self.sources = Sources()
        self._offer = offer
        self._speech = (offer.audio.payload_type, offer.audio.red)
        self._held: list[tuple[bytes, int]] = []
        self._next_sequence = -1
        self._dtls = _Dtls(_Ice(connection, self.sources, counters), certificate, self)
        self._dtls._set_role("client" if offer.transport.setup != "client" else "server")
        self._sctp = Sctp(self._dtls, self._refuse, self._fail) if offer.data is not None else None
        self._protect: Process | None = None
        self._protect_rtcp: Process | None = None
        self._unprotect: Process = refuse
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def sctp_port(self) -> int:
        """For the answer; 0 without data channels."""
        return self._sctp.port if self._sctp is not None else 0

    @property
    def is_connected(self) -> bool:
        """Media may be sent."""
        return self._protect is not None and not self._is_closed

    async def gather(self) -> None:
        """Be reachable; `ConnectionError` when the worker has no room."""
        self.connection.remote_username = self._offer.transport.ufrag
        self.connection.remote_password = self._offer.transport.pwd
        await self.connection.gather_candidates()

    def start(self) -> None:
        """Wait for the browser, shake hands, and go on until closed."""
        self._starting = asyncio.get_running_loop().create_task(self._start())

    def send_rtp(self, packet: bytes) -> bytes:
        """One RTP packet, sent now or not at all; as it went out, b"" when it did not."""
        datagram = self._protect(packet) if self._protect is not None else b""
        if not datagram or not self.connection.send_now(datagram):
            self.counters.rtp_unsent += 1
            return b""
        return datagram

    def repeat_rtp(self, datagram: bytes) -> bool:
        """What `send_rtp` gave, once more: encrypting a packet anew would look like a replay to libsrtp."""
        return self.connection.send_now(datagram)

    def send_rtcp(self, packet: bytes) -> bool:
        """One compound packet, sent now or not at all."""
        return self._protect_rtcp is not None and self.connection.send_now(self._protect_rtcp(packet))

    async def close(self, reason: str) -> None:
        """Say goodbye to the browser and free everything; harmless when repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        self.connection.on_rtp = self.connection.on_dead = self.connection.on_alive = None
        self.flush()  # a call that is resumed elsewhere goes on with it
        if self._starting is not None and self._starting is not asyncio.current_task():
            self._starting.cancel()
        if self._sctp is not None:
            with contextlib.suppress(ConnectionError):
                await self._sctp.stop()
            self._sctp.remove_all_listeners()
        await self._dtls.stop()
        self._dtls.remove_all_listeners()
        await self.connection.close()
        self._protect = self._protect_rtcp = None
        self._unprotect = refuse
        self.events.closed(reason)

    def keyed(self, receiving: pylibsrtp.Session, sending: pylibsrtp.Session) -> None:
        """The handshake gave us keys: from now on media flows."""
        self._unprotect = unprotector(receiving)
        self._protect, self._protect_rtcp = protector(sending), rtcp_protector(sending)
        self.connection.on_rtp = self._receive
        self.connection.on_dead, self.connection.on_alive = self.events.away, self.events.back

    async def _start(self) -> None:
        transport = self._offer.transport
        fingerprints = [RTCDtlsFingerprint(algorithm=a, value=v) for a, v in transport.fingerprints]
        self._dtls.on("statechange", self._changed)
        try:
            await self.connection.connect()
            async with asyncio.timeout(HANDSHAKE_S):
                await self._dtls.start(RTCDtlsParameters(fingerprints=fingerprints))
        except TimeoutError:
            self.counters.handshakes_timed_out += 1
            await self.close("the DTLS handshake took too long")
            return
        except ConnectionError as wrong:
            await self.close(f"no connection: {wrong}")
            return
        if self._dtls.state != "connected":
            await self.close("the DTLS handshake failed")
            return
        self.events.connected()
        data = self._offer.data
        if self._sctp is not None and data is not None:
            self._sctp.on("datachannel", self._opened)
            await self._sctp.start(RTCSctpCapabilities(maxMessageSize=data.max_message_bytes), data.sctp_port)

    def _changed(self) -> None:
        """DTLS ends by the browser's close_notify, or by a fault of its own loop."""
        if self._dtls.state in ("closed", "failed") and not self._is_closed:
            closing = self.close("the browser closed the connection")
            self._closing = asyncio.get_running_loop().create_task(closing)

    def _opened(self, channel: RTCDataChannel) -> None:
        if channel.label != LABEL:
            self.counters.channels_refused += 1
            channel.close()
            return
        self.events.channel_opened(channel)

    def _refuse(self) -> None:
        self.counters.sctp_refused += 1

    def _fail(self) -> None:
        self.counters.sctp_failed += 1

    def _receive(self, datagram: bytes, arrival_ns: int) -> None:
        """Speech waits for more of it as long as it comes in order, which its header says in the clear."""
        if len(datagram) < HEADER_BYTES or datagram[1] & 0x7F not in self._speech:
            self._take(datagram, arrival_ns)
            return
        held = self._held
        held.append((datagram, arrival_ns))
        sequence = datagram[2] << 8 | datagram[3]
        if sequence != self._next_sequence or len(held) >= MOST_HELD:
            self.flush()
        self._next_sequence = sequence + 1 & 0xFFFF

    def flush(self) -> None:
        """What waits goes to the call, each with the time at which it came."""
        held, self._held = self._held, []
        for datagram, arrival_ns in held:
            self._take(datagram, arrival_ns)

    def _take(self, datagram: bytes, arrival_ns: int) -> None:
        ssrc, sources = datagram[8:12], self.sources
        if ssrc not in sources.known and not sources.admits(ssrc):
            self.counters.sources_refused += 1
            return
        data = self._unprotect(datagram)
        if not data:
            self.counters.srtp_refused += 1
            return
        if ssrc not in sources.known:
            sources.note(ssrc)
        self.connection.media_ns = arrival_ns
        packet = parse_packet(data)
        if isinstance(packet, BadPacket):
            self.counters.rtp_malformed += 1
            return
        self.events.rtp(packet, arrival_ns)
