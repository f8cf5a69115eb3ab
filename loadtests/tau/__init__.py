"""`python -m loadtests tau`: tau-voice's 200 ms ticks against a live call.

    line.py      ticks on the two time lines of a call: pure
    call.py      one telephone call, driven tick by tick
    adapter.py   the same as an adapter of tau2-bench
    command.py   the command

One rule: a tick is a turn. The call's clock never waits for the one who ticks.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """See `command.py`."""
    from loadtests.tau.command import main as command

    return command(argv)
