"""What a browser with our page does about lost packets of speech: it offers repeats, asks for them and gives them.

    repair   offered                            then
    fec      Opus with in-band FEC              nothing
    nack     a=rtcp-fb:<Opus> nack              asks for what is missing, answers requests (no RTX: as it was sent)
    red      audio/red with Opus, one before    carries each payload twice

A request is a compound packet with a report in front, as a browser sends it to who agreed to no reduced size
(RFC 4585 section 3.1, RFC 5506): so the sender hears of a loss before a repeat hides it from the reports.
`media/nack.py` decides which packets are asked for and which are sent again. What came is looked at by its headers
only: they are not encrypted, and nothing is decoded while calls are live.
"""

from __future__ import annotations

import re
import struct
from typing import Final, Protocol

from gateway.webrtc import rtcp
from loadtests.webrtc_loop import DatagramPort
from loadtests.webrtc_streams import ArrivalStatistics
from media.nack import Gaps
from media.timebase import FRAME_NS, NS_PER_MS

REPAIRS: Final = ("fec", "nack", "red")
RED_TYPE: Final = 63
"""As in Chromium's offers; aiortc's own types begin at 96."""
PATIENCE_NS: Final = 200 * NS_PER_MS
"""What is older is not asked for: a listener has given it up."""
CNAME: Final = "caller"
_OPUS = re.compile(r"^a=rtpmap:(\d+) opus/48000[^\r\n]*\r?\n", re.MULTILINE | re.IGNORECASE)
_HEADER = struct.Struct("!BBHII")


class Path(Protocol):
    """Where packets come from, and where RTCP goes."""

    @property
    def port(self) -> DatagramPort: ...
    def send_rtcp(self, packet: bytes) -> bool: ...


def offered(sdp: str, repair: str) -> str:
    """The offer with what mends losses beside Opus's own FEC. Raises ValueError when it has no Opus."""
    found = _OPUS.search(sdp)
    if found is None:
        raise ValueError("the offer has no Opus")
    opus = found[1]
    if repair == "nack":
        return sdp[: found.end()] + f"a=rtcp-fb:{opus} nack\r\n" + sdp[found.end() :]
    if repair == "red":
        lines = f"a=rtpmap:{RED_TYPE} red/48000/2\r\na=fmtp:{RED_TYPE} {opus}/{opus}\r\n"
        sdp = sdp[: found.end()] + lines + sdp[found.end() :]
        return re.sub(r"^(m=audio \d+ \S+ )", rf"\g<1>{RED_TYPE} ", sdp, count=1, flags=re.MULTILINE)
    return sdp


class Asking:
    """Looks every 20 ms at what has come, and asks for what has not. A `Paced` of the pacer."""

    def __init__(self, path: Path, ssrc: int) -> None:
        self.due_ns = 0
        self.gaps = Gaps()
        self.repeated: list[int] = []
        """Which of the port's datagrams came because they were asked for."""
        self.round_trip_ns: int | None = None
        self.statistics: ArrivalStatistics | None = None
        """What the reports say; None: nothing yet."""
        self._path, self._ssrc = path, ssrc
        self._theirs = 0
        self._read = 0
        self._newest_ns = 0

    def send(self) -> None:
        """One look."""
        now_ns = self.due_ns
        self.due_ns += FRAME_NS
        self._look()
        wanted = self.gaps.wanted(now_ns, self.round_trip_ns, self._place_ns)
        if wanted:
            self._path.send_rtcp(self._report() + rtcp.nack(self._ssrc, self._theirs, wanted))

    def _report(self) -> bytes:
        """RR and SDES, which begin a compound packet (RFC 3550 section 6.1)."""
        blocks = {self._theirs: self.statistics.block()} if self.statistics is not None else {}
        return rtcp.report(rtcp.Sent(self._ssrc, 0, 0, 0), CNAME, blocks, sending=False)

    def _look(self) -> None:
        port = self._path.port
        for index in range(self._read, len(port.datagrams)):
            _, _, sequence, _, ssrc = _HEADER.unpack_from(port.datagrams[index])
            self._theirs = ssrc
            if self.gaps.receive(ssrc, sequence, port.arrivals_ns[index]):
                self.repeated.append(index)
            else:
                self._newest_ns = port.arrivals_ns[index]
        self._read = len(port.datagrams)

    def _place_ns(self, behind: int) -> int:
        return self._newest_ns - behind * FRAME_NS + PATIENCE_NS
