"""`python -m loadtests KIND ...`: the last line on standard output is one JSON object (DESIGN section 11)."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys

KINDS = {
    "sip": "SIP calls through a gateway: CPU, memory, delay, turns",
    "webrtc": "the same over WebRTC",
    "netem": "the weak-network lab",
    "faults": "the fault matrix",
    "recording": "what recording adds to a call, in the same minutes",
    "safety": "what a policy of rules adds to a reply",
    "page": "one page of all kept results, and the README's table",
    "sizing": "what so many calls take, from the rows of the others",
    "capacity": "how many calls this machine holds, beyond that, and a herd",
    "soak": "calls for hours, and whether anything grows",
    "peers": "the same callers at other programs, in one run",
    "fuzz": "every parser against bytes that libFuzzer invents",
    "flood": "scanners at the SIP port beside live calls",
    "rollout": "a rolling restart of the chart's gateways under live calls",
    "scrape": "what a look at the metrics costs, and whether calls make it longer",
    "fdb": "Full-Duplex-Bench, or a set about digits in its layout, through calls",
    "tau": "tau-voice's 200 ms ticks against a live call",
    "state": "calls while the state server is away, a gateway is drained, or one of two dies",
}


def main(argv: list[str]) -> int:
    """Run `loadtests.KIND.main(rest)`. Returns its exit status, or 2 for a kind that there is not."""
    kind = argv[0] if argv else ""
    if kind not in KINDS or importlib.util.find_spec(f"loadtests.{kind}") is None:
        lines = [f"  {name:9} {text}" for name, text in KINDS.items()]
        print("usage: python -m loadtests KIND [--help]\n" + "\n".join(lines), file=sys.stderr)
        return 2
    status: int = importlib.import_module(f"loadtests.{kind}").main(argv[1:])
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is ended in order
    sys.exit(main(sys.argv[1:]))
