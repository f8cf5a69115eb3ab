"""Whoever started us holds the other end of our standard input: its end is told by the kernel, however it came.

Asked for by the flag `--kept`, which nobody types: a terminal, a service manager and a container end their own.
"""

from __future__ import annotations

import os
import signal
import threading

STDIN = 0


def heed_keeper(how: signal.Signals) -> None:
    """From now on the end of standard input is this signal to us."""
    threading.Thread(target=_wait, args=(how,), name="keeper", daemon=True).start()


def _wait(how: signal.Signals) -> None:
    while os.read(STDIN, 4096):
        pass
    os.kill(os.getpid(), how)
