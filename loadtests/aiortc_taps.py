"""aiortc with its media path left out: SDP, ICE, DTLS, SCTP and RTCP are aiortc's, RTP is ours.

Every private name of aiortc and aioice that the load generator leans on is used here and nowhere else, and
listed below; `tests/loadtests/test_webrtc.py` fails when one of them is gone or the version is another.

    RTP out:  our packet -> protect -> the socket of the nominated pair
    RTP in:   kept as it came by the socket (`loadtests.webrtc_loop`), unprotected when the call is over
    RTCP:     aiortc's own tasks; sender and receiver reports are filled from what we count
"""

from __future__ import annotations

import asyncio
from array import array
from typing import Any, Final, Protocol

import aioice.ice
import pylibsrtp
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCRtpTransceiver, clock
from aiortc.rtcdtlstransport import RTCDtlsTransport

from loadtests.webrtc_loop import DatagramPort

AIORTC: Final = "1.16.0"  # the version that these names were read in
PRIVATE_NAMES: Final = {
    "aioice.ice.get_host_addresses": "leaves 127.0.0.1 out on purpose",
    "aioice.ice.CONSENT_INTERVAL": "twice that of Chromium",
    "aioice.ice.Connection._nominated": "the pair that media goes over",
    "aiortc.RTCIceTransport._connection": "the way to that pair",
    "aiortc.RTCDtlsTransport._tx_srtp": "protects what we send",
    "aiortc.RTCDtlsTransport._rx_srtp": "unprotects what we kept",
    "aiortc.RTCRtpSender._ssrc": "is in the offer, so our packets bear it",
    "aiortc.RTCRtpSender._send_keyframe": "called for a PLI or FIR",
    "aiortc.RTCRtpSender._retransmit": "called for each packet of a NACK",
    "aiortc.RTCRtpSender.__rtt": "how long repeats take",
    "aiortc.RTCRtpSender.__ntp_timestamp": "of the next sender report",
    "aiortc.RTCRtpSender.__rtp_timestamp": "of the next sender report",
    "aiortc.RTCRtpSender.__packet_count": "of the next sender report",
    "aiortc.RTCRtpSender.__octet_count": "of the next sender report",
    "aiortc.RTCRtpReceiver.__remote_streams": "by SSRC; what receiver reports are made of",
}


class FeedbackTarget(Protocol):
    """A stream that a peer may ask for more."""

    def restart(self) -> None:
        """Begin again with a key frame."""

    def resend(self, sequence: int) -> None:
        """Send a packet once more, if it is still known."""


class StreamStatistics(Protocol):
    """What a receiver report says of one stream, read once for each report, `fraction_lost` first."""

    @property
    def fraction_lost(self) -> int: ...
    @property
    def packets_lost(self) -> int: ...
    @property
    def max_seq(self) -> int: ...
    @property
    def jitter(self) -> int: ...


class SilentTrack(MediaStreamTrack):
    """A track that never has a frame: aiortc's sender sleeps on it while we send."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    async def recv(self) -> Any:
        await asyncio.Event().wait()


class MediaPath:
    """The way of RTP of one connected call. Raises KeyError before ICE has nominated a pair."""

    def __init__(self, dtls: RTCDtlsTransport) -> None:
        pair = dtls.transport._connection._nominated[1]
        port = pair.protocol.transport
        assert isinstance(port, DatagramPort), "the call was not made on a CallerLoop"
        self.port = port
        self._address = pair.remote_addr
        self._protect, self._protect_rtcp = dtls._tx_srtp.protect, dtls._tx_srtp.protect_rtcp
        self._unprotect = dtls._rx_srtp.unprotect

    def send(self, packet: bytes) -> bool:
        """False when the socket did not take it."""
        return self.port.send_now(self._protect(packet), self._address)

    def send_rtcp(self, packet: bytes) -> bool:
        """One compound packet; False when the socket did not take it."""
        return self.port.send_now(self._protect_rtcp(packet), self._address)

    def take_all(self) -> tuple[list[bytes | None], array[int]]:
        """What the port kept, unprotected, and when it came; None for what is not from our peer (RFC 3711)."""
        datagrams, self.port.datagrams = self.port.datagrams, []
        arrivals_ns, self.port.arrivals_ns = self.port.arrivals_ns, array("q")
        return [self._unprotect_one(datagram) for datagram in datagrams], arrivals_ns

    def _unprotect_one(self, datagram: bytes) -> bytes | None:
        try:
            plain: bytes = self._unprotect(datagram)
        except pylibsrtp.Error:
            return None
        return plain


def allow_loopback() -> None:
    """Let ICE gather 127.0.0.1, and nothing else: no packet leaves this machine."""
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


def check_as_browsers_do() -> None:
    """Consent is asked for every 2 s, about as often as by Chromium (2.5 s): at aioice's 5 s one lost check is an
    absence."""
    aioice.ice.CONSENT_INTERVAL = 2


def transport_of(transceiver: RTCRtpTransceiver) -> RTCDtlsTransport:
    """The DTLS transport of a transceiver; one for all of a bundle."""
    return transceiver.sender.transport


def find_transceiver(connection: RTCPeerConnection, kind: str) -> RTCRtpTransceiver | None:
    """The first transceiver of a kind."""
    return next((t for t in connection.getTransceivers() if t.kind == kind), None)


def ssrc_of(sender: RTCRtpSender) -> int:
    """The SSRC that the offer announced."""
    return int(sender._ssrc)


def fill_sender_report(sender: RTCRtpSender, timestamp: int, packets: int, octets: int) -> None:
    """What aiortc's next sender report will say (RFC 3550 section 6.4.1)."""
    fields = {
        "ntp_timestamp": clock.current_ntp_time(),
        "rtp_timestamp": timestamp,
        "packet_count": packets,
        "octet_count": octets,
    }
    for name, value in fields.items():
        setattr(sender, f"_RTCRtpSender__{name}", value)


def round_trip_ns(sender: RTCRtpSender) -> int | None:
    """As the peer's reports tell it (RFC 3550 section 6.4.1); None before the first."""
    seconds: float | None = getattr(sender, "_RTCRtpSender__rtt")  # noqa: B009
    return None if seconds is None else max(0, round(seconds * 1e9))


def fill_receiver_reports(receiver: RTCRtpReceiver, ssrc: int, statistics: StreamStatistics) -> None:
    """Have aiortc report on a stream that it does not see."""
    streams: dict[int, StreamStatistics] = getattr(receiver, "_RTCRtpReceiver__remote_streams")  # noqa: B009
    streams[ssrc] = statistics


def answer_feedback(sender: RTCRtpSender, target: FeedbackTarget) -> None:
    """PLI, FIR and NACK for this sender reach `target` instead of aiortc's encoder and history."""

    async def retransmit(sequence: int) -> None:
        target.resend(sequence)

    sender._send_keyframe = target.restart  # type: ignore[method-assign]
    sender._retransmit = retransmit  # type: ignore[method-assign, assignment]
