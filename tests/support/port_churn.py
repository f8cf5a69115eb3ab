"""Ports of the bridge made and destroyed while its clock calls them and a third thread keeps the interpreter busy:
a process of its own, since a mistake here is a crash. Prints `survived`."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time

import pjsua2 as pj

from gateway.sip.pj import Port
from media.timebase import FRAME_NS

RATE_HZ = 8000
PORTS, ROUNDS = 50, 30
TICKS_S = 0.04
"""Two of the bridge's ticks: every new port has been called."""


class CountedPort(Port):
    """Counts how often the clock has called it."""

    received = 0

    def onFrameReceived(self, frame: object) -> None:  # noqa: N802
        self.received += 1


def main() -> None:
    """Runs for some five seconds."""
    gc.disable()
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt, config.uaConfig.mainThreadOnly = 0, True
    config.medConfig.clockRate = config.medConfig.sndClockRate = RATE_HZ
    config.medConfig.audioFramePtime, config.medConfig.sndAutoCloseTime = 20, -1
    endpoint.libInit(config)
    endpoint.audDevManager().setNullDev()
    endpoint.libStart()
    sys.setswitchinterval(0.0005)
    threading.Thread(target=keep_busy, daemon=True).start()
    called = sum(one_round() for _ in range(ROUNDS))
    assert called >= PORTS * ROUNDS, f"the clock called {called} times"
    print("survived", flush=True)
    os._exit(0)


def keep_busy() -> None:
    """So that the clock thread waits for the interpreter in the middle of most calls."""
    while True:
        sum(range(200))


def one_round() -> int:
    """How often its ports were called."""
    fmt = pj.MediaFormatAudio()
    fmt.type = pj.PJMEDIA_TYPE_AUDIO
    fmt.init(pj.PJMEDIA_FORMAT_PCM, RATE_HZ, 1, FRAME_NS // 1000, 16)
    ports = [CountedPort(lambda: bytes(2 * RATE_HZ // 50)) for _ in range(PORTS)]
    for number, port in enumerate(ports):
        port.createPort(f"port{number}", fmt)
    time.sleep(TICKS_S)
    called = 0
    while ports:
        port = ports.pop()
        port.destroy()
        called += port.received
        del port
    return called


if __name__ == "__main__":
    main()
