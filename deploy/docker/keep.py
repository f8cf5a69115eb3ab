"""Keeps a program alive within its container: `keep.py COMMAND ARGUMENT ...`.

A container ends with its main process, and so would every worker in it. When a gateway's main process dies, though,
its workers keep their calls and wait for the next one (docs/architecture.md): this starts it, in that container.

    dies by itself -----------------> the next one, after PAUSE_S; MOST_DEATHS within DEATHS_S: end with its status
    ends with 0 or 2 (a setting) ---> end with it
    SIGTERM, SIGINT -----------------> passed on; then it ends with the program, however that ended
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import deque
from types import FrameType

PAUSE_S = 0.2
MOST_DEATHS, DEATHS_S = 5, 60.0
FINAL = (0, 2)
"""Done, or a setting that is wrong: another start would end likewise."""


def keep(command: list[str]) -> int:
    """Until it is over; its status, 128 + the signal that ended it."""
    running: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        for program in running:
            program.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    deaths: deque[float] = deque(maxlen=MOST_DEATHS)
    while True:
        program = subprocess.Popen(command)
        running[:] = [program]
        for number in told:  # it came while there was nobody to hear it
            program.send_signal(number)
        status = program.wait()
        running.clear()
        deaths.append(time.monotonic())
        final = 128 - status if status < 0 else status
        often = len(deaths) == MOST_DEATHS and deaths[-1] - deaths[0] < DEATHS_S
        if told or status in FINAL or often:
            return final
        print(
            f"keep.py: {command[0]} died (status {final}): the next one is started",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(PAUSE_S)


def main(arguments: list[str]) -> int:
    """Exit status."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    return keep(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
