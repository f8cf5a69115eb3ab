"""Asks an installed pjsua2 what it can do; run as a throw-away process, prints one JSON line.

    python pjsip_probe.py limits                 calls, accounts, conference ports
    python pjsip_probe.py codecs                 codec ids, and the kind of io queue
    python pjsip_probe.py call CODEC none|sdes|dtls [ADDRESS]    a call of the process to itself, with sound there

Not a test and not imported by one: a pjsua2 library cannot be started twice in a process.
"""

from __future__ import annotations

import json
import os
import sys
import time

import pjsua2 as pj

CALL_DEADLINE_S = 15.0
KEEP: list[object] = []  # a pj object that Python collects is destroyed in the library as well


def start(codec: str = "") -> tuple[pj.Endpoint, int]:
    """The library on a loopback UDP port of the system's choice, with `codec` alone if one is given."""
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.maxCalls = 4096  # clamped to what was compiled in
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.boundAddress = "127.0.0.1"
    transport_id = endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    address = endpoint.transportGetInfo(transport_id).localName
    if codec:
        for found in endpoint.codecEnum2():
            endpoint.codecSetPriority(found.codecId, 200 if found.codecId == codec else 0)
    endpoint.audDevManager().setNullDev()
    endpoint.libStart()
    KEEP.append(endpoint)
    return endpoint, int(address.rpartition(":")[2])


def account_config(port: int, sound: str = "127.0.0.1") -> pj.AccountConfig:
    config = pj.AccountConfig()
    config.idUri = f"sip:probe@127.0.0.1:{port}"
    is_ipv6 = ":" in sound
    config.mediaConfig.ipv6Use = pj.PJSUA_IPV6_ENABLED_USE_IPV6_ONLY if is_ipv6 else pj.PJSUA_IPV6_DISABLED
    config.mediaConfig.transportConfig.boundAddress = sound
    return config


def limits() -> dict[str, object]:
    """Makes calls to a dead port over loop media, then accounts, until the library refuses."""
    endpoint, port = start()
    config = account_config(port)
    config.mediaConfig.useLoopMedTp = True
    first = pj.Account()
    first.create(config)
    KEEP.append(first)
    accounts = 1
    calls = 0
    try:
        while calls < 4096:
            call = pj.Call(first)
            KEEP.append(call)
            call.makeCall("sip:nobody@127.0.0.1:9", pj.CallOpParam(True))
            calls += 1
    except pj.Error:
        pass
    try:
        while accounts < 1024:
            account = pj.Account()
            KEEP.append(account)
            account.create(config)
            accounts += 1
    except pj.Error:
        pass
    return {"calls": calls, "accounts": accounts, "conf_ports": endpoint.mediaMaxPorts()}


def codecs() -> dict[str, object]:
    endpoint, _ = start()
    found = sorted(codec.codecId for codec in endpoint.codecEnum2())
    handles = os.listdir("/proc/self/fd")
    links = [
        os.readlink(f"/proc/self/fd/{handle}")
        for handle in handles
        if os.path.lexists(f"/proc/self/fd/{handle}")
    ]
    return {
        "codecs": found,
        "epoll": any("eventpoll" in link for link in links),
        "version": endpoint.libVersion().full,
    }


class Leg(pj.Call):  # type: ignore[misc]
    """Either end of the call; keeps the offer as it went out."""

    sdp = ""
    audio = ""

    def onCallSdpCreated(self, prm: pj.OnCallSdpCreatedParam) -> None:
        self.sdp = prm.sdp.wholeSdp

    def onCallMediaState(self, prm: pj.OnCallMediaStateParam) -> None:
        info = self.getInfo()
        media = info.media[0]
        if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
            self.audio = self.getStreamInfo(0).codecName
            audio = self.getAudioMedia(0)
            audio.startTransmit(audio)


class Answering(pj.Account):  # type: ignore[misc]
    """Takes every call."""

    def onIncomingCall(self, prm: pj.OnIncomingCallParam) -> None:
        call = Leg(self, prm.callId)
        KEEP.append(call)
        answer = pj.CallOpParam(True)
        answer.statusCode = 200
        answer.opt.textCount = answer.opt.videoCount = 0
        call.answer(answer)


def call(codec: str, keying: str, sound: str = "127.0.0.1") -> dict[str, object]:
    """Calls itself; returns codec, media line, address and key lines of the offer, and RTP packets received."""
    endpoint, port = start(codec)
    config = account_config(port, sound)
    if keying != "none":
        config.mediaConfig.srtpUse = pj.PJMEDIA_SRTP_MANDATORY
        config.mediaConfig.srtpSecureSignaling = 0
        kind = pj.PJMEDIA_SRTP_KEYING_SDES if keying == "sdes" else pj.PJMEDIA_SRTP_KEYING_DTLS_SRTP
        config.mediaConfig.srtpOpt.keyings = pj.IntVector([kind])
    account = Answering()
    account.create(config)
    KEEP.append(account)
    leg = Leg(account)
    KEEP.append(leg)
    parameters = pj.CallOpParam(True)
    parameters.opt.textCount = parameters.opt.videoCount = 0
    leg.makeCall(f"sip:probe@127.0.0.1:{port}", parameters)
    # A tone, since silence may be sent as none at all.
    tone = pj.ToneGenerator()
    tone.createToneGenerator(16000, 1)
    description = pj.ToneDesc()
    description.freq1, description.on_msec, description.off_msec = 440, 1000, 0
    tone.play(pj.ToneDescVector([description]), True)
    KEEP.append(tone)
    packets = 0
    begin = time.monotonic()
    connected = False
    while time.monotonic() - begin < CALL_DEADLINE_S and packets < 25:
        time.sleep(0.02)
        if leg.audio and not connected:
            tone.startTransmit(leg.getAudioMedia(0))
            connected = True
        if connected:
            packets = leg.getStreamStat(0).rtcp.rxStat.pkt
    lines = leg.sdp.splitlines()
    return {
        "codec": leg.audio,
        "media": next((line for line in lines if line.startswith("m=audio")), ""),
        "address": next((line for line in lines if line.startswith("c=")), ""),
        "keys": sorted(
            {line.split(":")[0] for line in lines if line.startswith(("a=crypto", "a=fingerprint"))}
        ),
        "packets": packets,
    }


def main(arguments: list[str]) -> dict[str, object]:
    if arguments[0] == "call":
        return call(*arguments[1:])
    return {"limits": limits, "codecs": codecs}[arguments[0]]()


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])), flush=True)
    os._exit(0)  # live calls: an orderly end would take seconds and proves nothing
