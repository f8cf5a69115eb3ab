"""How much the installed library takes: asked in a process of its own, by `gateway/sip/limit.py`."""

from __future__ import annotations

from typing import Any

import pjsua2 as pj

_KEPT: list[Any] = []
"""Objects of `call_limit`: destroyed by the end of the process, never by the collector."""


def call_limit(most: int = 2048) -> int:
    """How many calls the library really takes in one process, by asking it for more.

    Leaves the library in no usable state: run it in a process of its own (`python -m gateway.sip.limit`).
    """
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.maxCalls = most
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.boundAddress = "127.0.0.1"
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.audDevManager().setNullDev()
    endpoint.libStart()
    settings = pj.AccountConfig()
    settings.idUri = "sip:limit@127.0.0.1"
    settings.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    settings.mediaConfig.useLoopMedTp = True
    account = pj.Account()
    account.create(settings)
    _KEPT.extend((endpoint, account))
    for taken in range(most):
        call = pj.Call(account)
        _KEPT.append(call)
        try:
            call.makeCall("sip:nobody@127.0.0.1:9", pj.CallOpParam(True))
        except pj.Error:
            return taken
    return most
