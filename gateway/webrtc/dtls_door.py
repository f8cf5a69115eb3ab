"""What of a browser's datagrams reaches DTLS and SRTP: one record at a time, and of few sources.

aiortc reads one record for each datagram, so of a datagram with more of them the rest would stay in OpenSSL's
buffer, which grows; and libsrtp keeps a context for each SSRC that it ever authenticated, in a list that it walks
for each packet: 100 us after 20,000 of them.
"""

from __future__ import annotations

from typing import Final

MAX_RECORDS: Final = 16
"""In one datagram; a flight of the handshake has six."""
MAX_DATA_BYTES: Final = 1500
"""Of a record of data: what aiortc reads at once."""
MAX_SRTP_BYTES: Final = 1500
"""pylibsrtp's buffer; for a longer packet it raises what aiortc does not expect, and the transport is over: anybody
who can forge the browser's address could end its call."""
MAX_SOURCES: Final = 64
"""SSRCs of one browser over one transport: it has a voice, a camera and its repair; in RTCP one for each."""
_HEADER_BYTES: Final = 13
_DATA: Final = 23


def records(datagram: bytes) -> list[bytes]:
    """The DTLS records of a datagram (RFC 6347 4.1), each with its header; what is not whole is left out."""
    found: list[bytes] = []
    at = 0
    while len(datagram) - at >= _HEADER_BYTES and len(found) < MAX_RECORDS:
        length = int.from_bytes(datagram[at + 11 : at + 13], "big")
        end = at + _HEADER_BYTES + length
        if end > len(datagram):
            break
        if datagram[at] != _DATA or length <= MAX_DATA_BYTES:
            found.append(datagram[at:end])
        at = end
    return found


class Sources:
    """The SSRCs that were authenticated on one transport, each as its four octets."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()

    def admits(self, ssrc: bytes) -> bool:
        """Whether a packet of this SSRC may be looked at; an unknown one only while there is room."""
        return ssrc in self.known or len(self.known) < MAX_SOURCES

    def note(self, ssrc: bytes) -> None:
        """It was authentic."""
        self.known.add(ssrc)
