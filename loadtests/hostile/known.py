"""Messages that are known for the trouble they make: RFC 4475, and what has killed a pjsua2 process."""

from __future__ import annotations

import random
from pathlib import Path

from loadtests.hostile.message import Hop, Hostile, offer, request

FLOOD_INVITES = 33
FLOOD_S = 0.4  # 33 INVITEs within 0.5 s: select() ran out of handles, which are kept for 500 ms


def torture_messages(folder: Path) -> list[Hostile]:
    """The messages of RFC 4475 below `folder`, each over UDP and over TCP, as they are.

    Raises ValueError if there are none.
    """
    files = sorted(folder.rglob("*.dat"))
    if not files:
        raise ValueError(f"no *.dat file below {folder}: --torture wants the folder of the RFC 4475 messages")
    return [
        Hostile(f"{file.parent.name}/{file.stem}", file.read_bytes(), transport)
        for file in files
        for transport in ("UDP", "TCP")
    ]


def crash_messages(rng: random.Random, udp: Hop, tcp: Hop) -> list[Hostile]:
    """Single INVITEs that killed a pjsua2 2.15 with asserts.  The flood that did is `flood_messages`."""
    long = b"A" * 254  # PJ_MAX_HOSTNAME: one more than the resolver's buffer takes
    found: list[Hostile] = []
    for path in (udp, tcp):
        sdp = offer(path)
        host = path.local.host.encode()
        bodies = {
            "c= of 254": sdp.replace(b"c=IN IP4 " + host, b"c=IN IP4 " + long),
            "c= of 300": sdp.replace(b"c=IN IP4 " + host, b"c=IN IP4 " + b"A" * 300),
            "a=rtcp of 254": sdp + b"a=rtcp:40001 IN IP4 " + long + b"\r\n",
            "m=audio 0, no c=": sdp.replace(b"c=IN IP4 " + host + b"\r\n", b"").replace(
                b"audio 40000", b"audio 0"
            ),
            "iLBC mode=40": sdp.replace(b"RTP/AVP 0 8 9", b"RTP/AVP 97")
            + b"a=rtpmap:97 iLBC/8000\r\na=fmtp:97 mode=40\r\n",
        }
        for name, body in bodies.items():
            found.append(Hostile(name, request(rng, path, "INVITE", body), path.transport))
    return found


def flood_messages(rng: random.Random, path: Hop) -> list[Hostile]:
    """33 valid INVITEs, to be sent within `FLOOD_S` seconds."""
    return [Hostile("flood", request(rng, path, "INVITE", offer(path))) for _ in range(FLOOD_INVITES)]
