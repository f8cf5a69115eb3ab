"""`python -m loadtests.scanner --target 127.0.0.1:PORT`: what scanners send to a SIP port, at a steady rate.

One process beside the one that measures, so that it takes nobody's time there. Requests of five kinds go in turn
from addresses of loopback: REGISTER and INVITE of known scanners, the same of programs that give another
name (both from 127.0.1.x), and INVITEs from 127.0.2.x. Answers are counted and never acknowledged, as scanners do
it. The last line on standard output is one JSON object. Only loopback is called.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = (
    ("REGISTER", "friendly-scanner", 1),
    ("INVITE", "sipcli/v1.8", 1),
    ("REGISTER", "Cisco-SIPGateway/IOS-12.x", 1),
    ("INVITE", "eyeBeam release 1104g", 1),
    ("INVITE", "PolycomSoundPoint", 2),
)
"""Method, User-Agent, and which of the two networks of loopback it comes from."""
BATCH_S = 0.005
READ_BYTES = 4096
LISTEN_S = 1.0
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.1.1\r\ns=-\r\nc=IN IP4 127.0.1.1\r\nt=0 0\r\n"
    "m=audio 9 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be sent, checked. Raises ValueError for what must not be."""

    host: str
    port: int
    requests: int
    per_s: float
    sources: int
    """Addresses of each network."""
    seed: int

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.host).is_loopback:
            raise ValueError(f"--target {self.host}: only loopback is called, such as 127.0.0.1:5060")
        if self.requests < 1 or self.per_s <= 0 or not 1 <= self.sources <= 250:
            raise ValueError("--requests and --per-s must be positive, --sources 1 to 250")


def request(kind: int, number: int, source: str, wish: Wish, mark: str) -> bytes:
    """One request; `mark` tells one run from another."""
    method, agent, _ = KINDS[kind]
    body = SDP if method == "INVITE" else ""
    uri = f"sip:{number % 10_000}@{wish.host}"
    return (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {source}:5060;branch=z9hG4bK{mark}{number};rport\r\n"
        f'Max-Forwards: 70\r\nFrom: "{number}" <{uri}>;tag={number}\r\nTo: <{uri}>\r\n'
        f"Call-ID: {mark}{number}\r\nCSeq: 1 {method}\r\nContact: <sip:{number}@{source}:5060>\r\n"
        f"User-Agent: {agent}\r\nExpires: 60\r\n"
        + ("Content-Type: application/sdp\r\n" if body else "")
        + f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def send(wish: Wish) -> dict[str, object]:
    """Send it all; how much went out, how long it took, and answers by status."""
    mark = f"{random.Random(wish.seed).randrange(16**8):08x}"
    answers: Counter[str] = Counter()
    refused = 0
    with contextlib.ExitStack() as stack:
        sockets = []
        for network in (1, 2):
            row = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                for _ in range(wish.sources)
            ]
            for index, one in enumerate(row):
                one.bind((f"127.0.{network}.{index + 1}", 0))
                one.setblocking(False)
            sockets.append(row)
        begun_s = time.monotonic()
        for number in range(wish.requests):
            kind = number % len(KINDS)
            row = sockets[KINDS[kind][2] - 1]
            one = row[number // len(KINDS) % len(row)]
            data = request(kind, number, str(one.getsockname()[0]), wish, mark)
            try:
                one.sendto(data, (wish.host, wish.port))
            except BlockingIOError:
                refused += 1
            ahead_s = begun_s + (number + 1) / wish.per_s - time.monotonic()
            if ahead_s > BATCH_S:
                _listen(sockets, answers)
                time.sleep(ahead_s)
        sent_s = time.monotonic() - begun_s
        time.sleep(LISTEN_S)
        _listen(sockets, answers)
    sent = wish.requests - refused
    return {"sent": sent, "seconds": round(sent_s, 2), "answers": dict(sorted(answers.items()))}


def _listen(sockets: Sequence[Sequence[socket.socket]], answers: Counter[str]) -> None:
    for row in sockets:
        for one in row:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while data := one.recv(READ_BYTES):
                    answers[data.split(b" ", 2)[1].decode(errors="replace")] += 1


def main(argv: list[str]) -> int:
    """0 when it was sent; 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.scanner")
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--per-s", type=float, default=1000.0)
    parser.add_argument("--sources", type=int, default=16, help="addresses of each of two networks")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    host, _, port = given.target.rpartition(":")
    try:
        wish = Wish(host, int(port), given.requests, given.per_s, given.sources, given.seed)
    except ValueError as wrong:
        print(f"loadtests.scanner: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps(send(wish)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
