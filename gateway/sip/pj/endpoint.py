"""The library in one process: its transport, its account, and the calls that come in."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
import time
from typing import Any

import pjsua2 as pj

from gateway.sip.marks import engine_of, has_sound6, may_be_recorded, persona_of, source_of, tenant_of
from gateway.sip.options import EndpointOptions
from gateway.sip.pj.call import CallEvents, SipCall, guarded
from gateway.sip.pj.metronome import Metronome
from gateway.sip.pj.pjmedia import Pjmedia, has_ipv6
from media.timebase import FRAME_MS

CODEC_ORDER = {"PCMU/8000/1": 130, "PCMA/8000/1": 129}
WIDEBAND_ORDER = {"G722/16000/1": 131, **CODEC_ORDER}


BYE_S = 0.5
"""For what was said last to be answered, before the library goes."""


class _Account(pj.Account):  # type: ignore[misc]
    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    def failed(self) -> None:
        """Nothing of this account's to end: the library times the INVITE out."""

    @guarded
    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        call = SipCall(self._endpoint, prm.callId)
        info, rdata = call.getInfo(), prm.rdata
        message = str(rdata.wholeMsg)
        call.persona, call.may_be_recorded = persona_of(message), may_be_recorded(message)
        call.tenant, call.rtp_source = tenant_of(message), source_of(message)
        call.sound6, call.engine = has_sound6(message), engine_of(message)
        call.sip_call_id, call.remote = str(info.callIdString), str(info.remoteUri)
        try:
            self._endpoint.events.incoming(call)
        except Exception:
            call.hang_up(500)
            raise


class _Library(pj.Endpoint):  # type: ignore[misc]
    """Where sound is IPv6 in some calls: whose account takes which, before the library has made its sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.account6: Any = None

    def onSelectAccount(self, prm: Any) -> None:  # noqa: N802
        rdata = prm.rdata
        if self.account6 is not None and has_sound6(str(rdata.wholeMsg)):
            prm.accountIndex = self.account6.getId()


class Endpoint:
    """The library in this process. Everything but the audio callbacks happens in the thread that made it."""

    def __init__(self, options: EndpointOptions, events: CallEvents) -> None:
        self.options = options
        self.events = events
        self.rate_hz = options.rate_hz
        self.pjmedia = Pjmedia(library_path())
        self.clock_reader = self.pjmedia.twin()
        """For what the clock's thread pulls."""
        self.metronome: Any = None
        self.account: Any = None
        self._dialling: dict[tuple[int, int, bool], Any] = {}
        self.sip_port = 0
        self.sip_socket: socket.socket | None = None
        """The library's, to see when there is something to `poll` for; nothing else may be done with it."""
        self._endpoint: Any = None
        self.calls = 0
        """Of the library, from their making to their burial."""
        self._last_s = -BYE_S
        """When the last one was buried."""
        self._buried: list[SipCall] = []

    def start(self) -> None:
        """Bind SIP on a loopback port of the system's choice and begin to take calls."""
        has_sound6 = bool(self.options.rtp_host6)
        self._endpoint = _Library() if has_sound6 else pj.Endpoint()
        self._endpoint.libCreate()
        self._endpoint.libInit(self._configuration())
        transport = pj.TransportConfig()
        transport.port, transport.boundAddress = 0, "127.0.0.1"
        number = self._endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
        order = WIDEBAND_ORDER if self.rate_hz > 8000 else CODEC_ORDER
        for codec in self._endpoint.codecEnum2():
            self._endpoint.codecSetPriority(codec.codecId, order.get(codec.codecId, 0))
        self._endpoint.audDevManager().setNullDev()
        self._endpoint.libStart()
        self.metronome = Metronome(self.rate_hz)
        info = self._endpoint.transportGetInfo(number)
        self.sip_port = int(str(info.localName).rsplit(":", 1)[1])
        self.sip_socket = _socket_at(("127.0.0.1", self.sip_port))
        own = (self.options.srtp, self.options.session_expires_s)
        self.account = _Account(self)
        self.account.create(self._account_configuration(*own), True)
        if has_sound6:
            self._endpoint.account6 = _Account(self)
            self._endpoint.account6.create(self._account_configuration(*own, sound6=True))

    def poll(self) -> None:
        """Handle what SIP has to say, without waiting. Media does not depend on it."""
        for _ in range(64):
            if self._endpoint.libHandleEvents(0) <= 0:
                return

    def dialling_account(self, srtp: int, session_expires_s: int, *, sound6: bool = False) -> Any:
        """Of calls that we place: one for all that have these alike; with `sound6` sound is offered over IPv6.
        `ValueError` when the library takes no more, or has no IPv6."""
        if sound6 and not self.options.rtp_host6:
            raise ValueError("no sound over IPv6: rtp_host6 is not set")
        found = self._dialling.get((srtp, session_expires_s, sound6))
        if found is None:
            config = self._account_configuration(srtp, session_expires_s, sound6=sound6)
            kind = "dial6" if sound6 else "dial"
            config.idUri = f"sip:{kind}-{srtp}-{session_expires_s}@127.0.0.1:{self.sip_port}"
            found = _Account(self)
            try:
                found.create(config)
            except pj.Error as wrong:
                raise ValueError(f"no more accounts: {wrong.reason}") from None
            self._dialling[srtp, session_expires_s, sound6] = found
        return found

    def bury(self, call: SipCall) -> None:
        """A call that is over is destroyed at the next `sweep`, outside of its own callback."""
        self._buried.append(call)

    def sweep(self) -> None:
        """Destroy what is buried, in this thread.

        A `pj.Call` that is destroyed hangs up whatever call has its number by then: one whose number is
        in use again waits until it is free, and the moment is not left to whoever holds the last reference.
        """
        waiting = []
        for call in self._buried:
            call.pull = call.ear = None
            if call.isActive():
                waiting.append(call)
            else:
                pj.Call.__swig_destroy__(call)
                self.calls -= 1
                self._last_s = time.monotonic()
        self._buried = waiting

    def close(self) -> None:
        """Hang up what is left, give the BYEs `BYE_S` and those of calls that ended just now the rest of it, and
        take the library down.

        The process must leave by `os._exit` afterwards: the interpreter's own end hangs or crashes.
        """
        self.metronome.stop()
        self._endpoint.hangupAllCalls()
        deadline = BYE_S + (time.monotonic() if self.calls else self._last_s)
        while time.monotonic() < deadline:
            self._endpoint.libHandleEvents(20)
        self.sweep()

    def _configuration(self) -> Any:
        config = pj.EpConfig()
        config.logConfig.level = config.logConfig.consoleLevel = 1
        ua, media = config.uaConfig, config.medConfig
        ua.maxCalls, ua.threadCnt, ua.mainThreadOnly, ua.userAgent = (
            self.options.max_calls,
            0,
            True,
            "microturn",
        )
        media.clockRate = media.sndClockRate = self.rate_hz
        media.audioFramePtime, media.channelCount, media.quality = FRAME_MS, 1, 3
        media.noVad, media.ecTailLen, media.sndAutoCloseTime = True, 0, -1
        media.jbInit, media.jbMinPre, media.jbMaxPre, media.jbMax = 0, 0, 0, self.options.store_ms
        _discard_nothing(media)
        return config

    def _account_configuration(self, srtp: int, session_expires_s: int, *, sound6: bool = False) -> Any:
        config = pj.AccountConfig()
        config.idUri = f"sip:microturn@127.0.0.1:{self.sip_port}"
        media = config.mediaConfig
        # One family an account: the library takes one address. By itself 2.17 would take both kinds of offer.
        media.ipv6Use = pj.PJSUA_IPV6_ENABLED_USE_IPV6_ONLY if sound6 else pj.PJSUA_IPV6_DISABLED
        media.transportConfig.boundAddress = self.options.rtp_host6 if sound6 else self.options.rtp_host
        media.transportConfig.port = self.options.rtp_port
        media.transportConfig.portRange = self.options.rtp_ports
        # Where it begins in its range: the callers of a worker that was killed go on sending to the first
        # ports, and a new call on one of them would hear them and be heard by them.
        media.transportConfig.randomizePort = True
        media.srtpUse, media.srtpSecureSignaling = srtp, 0
        timer = config.callConfig
        timer.timerUse = pj.PJSUA_SIP_TIMER_OPTIONAL if session_expires_s else pj.PJSUA_SIP_TIMER_INACTIVE
        if session_expires_s:
            timer.timerSessExpiresSec = session_expires_s
        # Challenges are answered, by whatever name: the edge writes the right answer in its place.
        config.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", "microturn", 0, "-"))
        return config


def _socket_at(address: tuple[str, int]) -> socket.socket:
    """This process's UDP socket there, which the library does not tell: another descriptor of the same."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
        except OSError:  # the descriptor of the listing itself, which is closed by now
            continue
        found = socket.socket(fileno=os.dup(descriptor))
        if (
            found.family == socket.AF_INET
            and found.type == socket.SOCK_DGRAM
            and found.getsockname() == address
        ):
            return found
        found.close()
    raise OSError(f"the library has no UDP socket at {address[0]}:{address[1]}")


def library_path() -> str:
    """Of the library's own module, which its builds put in different places."""
    module = sys.modules[pj.Endpoint.__module__]._pjsua2
    return str(module.__file__)


def takes_ipv6() -> bool:
    """Whether sound may be sent over IPv6."""
    return has_ipv6(library_path())


def _discard_nothing(media: Any) -> None:
    """pjmedia's jitter buffer leaves no frame out by itself (PJMEDIA_JB_DISCARD_NONE).

    Through JSON, since the attribute cannot be set in the wheel.
    """
    told, changed = pj.JsonDocument(), pj.JsonDocument()
    told.writeObject(media)
    changed.loadString(re.sub(r'("jbDiscardAlgo":\s*)\d+', r"\g<1>0", told.saveString()))
    changed.readObject(media)


def version() -> str:
    """The library's own version; the library must have been created in this process."""
    told = pj.Endpoint.instance().libVersion()
    return str(told.full)
