"""Sends hostile SIP and RTP to a running gateway on this machine and checks that it goes on answering.

The command line, and what is told at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.hostile.message import Address
from loadtests.hostile.sender import Options, Sender, Silent


def loopback(text: str) -> Address:
    """`host:port` of this machine.  Raises ValueError for anything else: no tool against other people."""
    host, colon, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        address = ipaddress.IPv4Address(host)
        number = int(port)
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 address and port, such as 127.0.0.1:5060") from None
    if not address.is_loopback:
        raise ValueError(f"{text!r} is not on this machine: only 127.0.0.0/8 may be attacked")
    if not colon or not 0 < number < 65536:
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    return Address(host, number)


def options_of(arguments: Sequence[str]) -> Options:
    """Reads the command line.  Raises ValueError for values that cannot be used; exits on syntax errors."""
    parser = argparse.ArgumentParser(
        prog="loadtests.hostile", description=__doc__.split("\n", 1)[0] if __doc__ else None
    )
    parser.add_argument(
        "--target", required=True, metavar="HOST:PORT", help="SIP port of the gateway, on this machine"
    )
    parser.add_argument("--rtp-targets", default="", metavar="HOST:PORT,...", help="RTP ports of live calls")
    parser.add_argument("--sip", type=int, default=10_000, help="mutated SIP messages (default %(default)s)")
    parser.add_argument(
        "--rtp", type=int, default=10_000, help="mutated RTP and RTCP packets (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=500.0, help="messages per second (default %(default)s)")
    parser.add_argument("--torture", type=Path, help="folder of the RFC 4475 messages, *.dat")
    parser.add_argument("--rtp-seeds", type=Path, help="folder of RTP packets to mutate, one a file")
    parser.add_argument("--rtcp-seeds", type=Path, help="folder of RTCP packets to mutate, one a file")
    parser.add_argument(
        "--source", default="127.0.0.1", help="own address in 127.0.0.0/8 (default %(default)s)"
    )
    parser.add_argument(
        "--replay", type=Path, help="folder for the last 200 messages, if the target falls silent"
    )
    given = parser.parse_args(arguments)
    if given.rate <= 0 or given.sip < 0 or given.rtp < 0:
        raise ValueError("--rate must be above 0, --sip and --rtp not below")
    loopback(f"{given.source}:1")
    return Options(
        target=loopback(given.target),
        rtp_targets=tuple(loopback(text) for text in given.rtp_targets.split(",") if text),
        sip=given.sip,
        rtp=given.rtp,
        seed=given.seed,
        rate_hz=given.rate,
        torture=given.torture,
        rtp_seeds=_contents(given.rtp_seeds),
        rtcp_seeds=_contents(given.rtcp_seeds),
        source=given.source,
        replay=given.replay,
    )


def _contents(folder: Path | None) -> tuple[bytes, ...]:
    if folder is None:
        return ()
    found = tuple(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())
    if not found:
        raise ValueError(f"{folder} has no files")
    return found


def report(sender: Sender, alive: bool) -> dict[str, object]:
    """The JSON line: messages sent by stage, responses by status code, the longest silence.

    `longest_silence_ms` is the longest time from a clean OPTIONS to its answer, or waited for it in vain.
    `left_open` counts calls whose BYE or CANCEL had no answer.
    """
    sent = {stage.name: stage.sent for stage in sender.stages}
    return {
        **{name: sent.get(name, 0) for name in ("torture", "crash", "sip", "rtp")},
        "answered_by_code": dict(sorted(sender.codes.items())),
        "alive": alive,
        "longest_silence_ms": round(max((stage.slowest_probe_ms for stage in sender.stages), default=0.0), 1),
        "hung_up": sum(agent.hung_up for agent in sender.agents),
        "left_open": sum(agent.given_up + agent.waiting for agent in sender.agents),
        "tcp": not sender.tcp_refused,
        "seed": sender.options.seed,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0: the target answered to the end; 1: it fell silent; 2: it never answered, or a bad command line."""
    try:
        options = options_of(sys.argv[1:] if arguments is None else arguments)
        sender = Sender(options)
        alive = asyncio.run(sender.run())
    except (ValueError, OSError) as error:
        print(f"hostile: {error}", file=sys.stderr)
        return 2
    except Silent:
        print(
            f"hostile: {options.target} does not answer an OPTIONS over UDP: is the gateway up?",
            file=sys.stderr,
        )
        return 2
    print(f"{'stage':<10}{'sent':>8}{'seconds':>9}{'probes':>8}{'slowest':>11}")
    for stage in sender.stages:
        line = f"{stage.name:<10}{stage.sent:>8}{stage.seconds:>9.1f}{stage.probes:>8}"
        print(f"{line}{stage.slowest_probe_ms:>8.1f} ms")
    if not alive:
        stage = sender.stages[-1]
        print(f"silent in stage {stage.name}, at or before message {stage.sent} of it, seed {options.seed}")
    print(json.dumps(report(sender, alive)))
    return 0 if alive else 1
