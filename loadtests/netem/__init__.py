"""`python -m loadtests netem`: the weak-network lab. How speech through bad networks sounds, and how late it is.

    emulator.py   one direction of a network: pure and seeded (loss, jitter, bottleneck, traces)
    profiles.py   networks by name
    way.py        a stream, its link, and repeats that are asked for, in virtual time
    lab.py        receive paths side by side in memory; listener.py is ours
    wire.py       the same emulator between two network namespaces, by TUN devices
    calls.py      real calls through it, browser.py those of a Chromium, and figures.py of them

One rule: what is lost, late, twice or out of order is decided in `emulator.py` alone.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """See `command.py`, which is loaded here: the wire's process needs none of its libraries."""
    from loadtests.netem.command import main as command

    return command(argv)
