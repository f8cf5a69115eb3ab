"""pjsua2 by itself: each call's sound goes from its jitter buffer through the library's bridge back to the call.

`python pjsua_echo.py PORT` prints `ready` and how many calls its build takes. Loopback only.
"""

from __future__ import annotations

import sys
from typing import Any

import pjsua2 as pj

CALLS: list[Any] = []
MOST_CALLS = 1_024


class Call(pj.Call):  # type: ignore[misc]
    """Answered, and bridged to itself once its sound is there."""

    def onCallMediaState(self, prm: Any) -> None:  # noqa: N802
        sound = self.getAudioMedia(-1)
        sound.startTransmit(sound)

    def onCallState(self, prm: Any) -> None:  # noqa: N802
        if self.getInfo().state == pj.PJSIP_INV_STATE_DISCONNECTED:
            CALLS.remove(self)


class Account(pj.Account):  # type: ignore[misc]
    """Takes every call."""

    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        call = Call(self, prm.callId)
        CALLS.append(call)
        answer = pj.CallOpParam()
        answer.statusCode = 200
        call.answer(answer)


def main(port: int) -> None:
    """Until it is interrupted."""
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.maxCalls = MOST_CALLS
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    config.medConfig.clockRate = config.medConfig.sndClockRate = 8_000
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.port, transport.boundAddress = port, "127.0.0.1"
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    account_config = pj.AccountConfig()
    account_config.idUri = f"sip:echo@127.0.0.1:{port}"
    account_config.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    account = Account()
    account.create(account_config)
    print("ready", flush=True)
    while True:
        endpoint.libHandleEvents(10)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    finally:
        sys.stdout.flush()
