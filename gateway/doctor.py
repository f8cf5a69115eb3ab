"""`microturn doctor`: looks at this machine as an operator would, and says what to do."""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import resource
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config import GatewaySettings
from gateway.engines import ask_moshi, choose
from gateway.sip.pool import ask_library
from gateway.sip.sockets import RECEIVE_BUFFER_BYTES
from gateway.state import embedded
from gateway.webrtc.pool import plan_webrtc
from media.codecs.opus import library

DESCRIPTORS_PER_CALL = 6
"""RTP and RTCP sockets, a released pair that rests, and room."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    found: str
    advice: str = ""
    fatal: bool = True


def examine(settings: GatewaySettings) -> list[Finding]:
    """Everything that keeps calls from working here; what is merely absent is not fatal."""
    tls = (settings.sip_host, settings.sip_tls_port, socket.SOCK_STREAM, "SIP over TLS", "sip_tls_port")
    return [
        _port(settings.sip_host, settings.sip_port, socket.SOCK_DGRAM, "SIP over UDP", "sip_port"),
        _port(settings.sip_host, settings.sip_port, socket.SOCK_STREAM, "SIP over TCP", "sip_port"),
        *([_port(*tls)] if settings.sip_tls_port else []),
        _port(settings.http_host, settings.http_port, socket.SOCK_STREAM, "HTTP", "http_port"),
        *(browser_calls(settings) if settings.webrtc_calls else []),
        _shared_memory(settings),
        _descriptors(settings),
        socket_buffers(RECEIVE_BUFFER_BYTES),
        _run_dir(settings),
        inbound_rules(settings),
        *([safety_policy(settings)] if settings.safety_policy or settings.moderation_url else []),
        _pjsua2(settings),
        kept_state(settings),
        *([waiting_events(settings)] if settings.webhooks else []),
        _compiler(),
        _gpu(),
        *([open_weights(settings)] if settings.engine == "moshi" or settings.weights else []),
        *further_engines(settings),
    ]


def further_engines(settings: GatewaySettings) -> list[Finding]:
    """Whether those that are started can be, and somebody listens where others are met."""
    findings = []
    for name, engine in settings.engines.items():
        what = f"engine {name}"
        if engine.engine == "moshi":
            held = ask_moshi(engine.weights, engine.slots)
            findings.append(Finding(what, held.good, held.found, held.advice, fatal=not held.can_start))
        elif engine.engine is not None:
            kind, why = choose(engine.engine)
            findings.append(Finding(what, True, f"{kind}, {why}"))
        else:
            findings.append(_listens(what, Path(engine.socket)))
    return findings


def _listens(what: str, path: Path) -> Finding:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError as wrong:
            advice = f"start it: microturn model --socket {path} ...; its calls are refused until then (503)"
            return Finding(what, False, f"nobody answers at {path} ({wrong.strerror})", advice, fatal=False)
    return Finding(what, True, f"a model server answers at {path}")


def inbound_rules(settings: GatewaySettings) -> Finding:
    """How many there are, and whether anybody's call is taken beside them; wrong ones stop the start."""
    count = len(settings.rules) + len(settings.personas)
    good = not settings.rules or settings.calls_without_rule == "refuse"
    others = (
        "others are refused" if settings.calls_without_rule == "refuse" else "others get the usual persona"
    )
    advice = 'calls_without_rule = "refuse" if nobody else shall be answered; microturn route NUMBER shows the rule'
    return Finding("inbound rules", good, f"{count}, {others}", advice, fatal=False)


def safety_policy(settings: GatewaySettings) -> Finding:
    """What is looked at before it is heard; a wrong file stops the start."""
    policy = settings.read_safety_policy()
    rules = f"{len(policy.rules)} rules, heard {200 * policy.lookahead} ms later" if policy else "no rules"
    asked = f", {settings.moderation_url} is asked" if settings.moderation_url else ""
    url = urlsplit(settings.moderation_url)
    good = url.scheme != "http" or url.hostname in ("localhost", "127.0.0.1", "::1")
    advice = "beyond this machine, what was said should go by https alone: mend moderation_url"
    return Finding("safety policy", good, rules + asked, advice, fatal=False)


def waiting_events(settings: GatewaySettings) -> Finding:
    """Where events wait for endpoints that are away."""
    folder = settings.events_folder
    good = bool(settings.events_dir)
    found = f"{len(settings.webhooks)} endpoints, events wait in {folder}"
    return Finding("webhooks", good, found, "events_dir on a disk: a reboot may empty run_dir", fatal=False)


def browser_calls(settings: GatewaySettings) -> list[Finding]:
    """What the page and its calls need."""
    ports = [
        _port(worker.host, port, kind, f"media of {worker.name} over {name}", f"webrtc_{name.lower()}_port")
        for worker in plan_webrtc(settings)
        for name, port, kind in (
            ("UDP", worker.udp_port, socket.SOCK_DGRAM),
            ("TCP", worker.tcp_port, socket.SOCK_STREAM),
        )
        if port
    ]
    return [*ports, _aiortc(), _opus(), _secure_context(settings), _reach(settings)]


def _aiortc() -> Finding:
    try:
        found = f"aiortc {importlib.metadata.version('aiortc')}"
    except importlib.metadata.PackageNotFoundError:
        return Finding("aiortc", False, "not installed", "make setup, or MICROTURN_WEBRTC_CALLS=0")
    return Finding("aiortc", True, found)


def _opus() -> Finding:
    try:
        library()
    except ImportError as wrong:
        return Finding("libopus", False, str(wrong), "make setup, or MICROTURN_WEBRTC_CALLS=0")
    return Finding("libopus", True, "loaded")


def _secure_context(settings: GatewaySettings) -> Finding:
    """Browsers give microphones to secure contexts only: https, and pages of the machine that they run on."""
    host, tls = settings.http_host, bool(settings.http_tls_cert)
    good = tls or ipaddress.ip_address(host).is_loopback
    advice = "set http_tls_cert and http_tls_key, or put a proxy that ends TLS in front of http_port"
    scheme = "https" if tls else "http"
    found = f"{scheme} on {host}" + ("" if good else ": browsers elsewhere give it no microphone")
    return Finding("page", good, found, advice, fatal=False)


def _reach(settings: GatewaySettings) -> Finding:
    """A page that others can load, with media that they cannot reach."""
    told = settings.webrtc_public_host or settings.webrtc_host
    page_is_local = ipaddress.ip_address(settings.http_host).is_loopback
    good = page_is_local or not ipaddress.ip_address(told).is_loopback
    advice = "set webrtc_host (and webrtc_public_host behind NAT) to an address that browsers reach"
    return Finding("media address", good, f"browsers are told {told}", advice)


def _port(host: str, port: int, kind: socket.SocketKind, what: str, setting: str) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as wrong:
            advice = f"stop what uses it (ss -lntup), or choose another: MICROTURN_{setting.upper()}=..."
            return Finding(what, False, f"{host}:{port}: {wrong.strerror}", advice)
    return Finding(what, True, f"{host}:{port} is free")


def _shared_memory(settings: GatewaySettings) -> Finding:
    needed = settings.slots * 70_000
    if settings.video == "on":
        needed += settings.webrtc_calls * 1_000_000
    try:
        fd = os.memfd_create("microturn-doctor", os.MFD_ALLOW_SEALING)
    except OSError as wrong:
        return Finding(
            "shared memory", False, f"memfd_create: {wrong.strerror}", "a Linux kernel >= 3.17 is needed"
        )
    os.close(fd)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    good = free > 2 * needed
    return Finding(
        "shared memory",
        good,
        f"{needed >> 20} MiB for {settings.slots} slots, {free >> 20} MiB free",
        "lower MICROTURN_SLOTS, or free memory",
    )


def _descriptors(settings: GatewaySettings) -> Finding:
    needed = 256 + DESCRIPTORS_PER_CALL * min(settings.sip_calls, 1024)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} allowed (at most {hard}), a worker needs up to {needed}"
    return Finding(
        "file descriptors", soft >= needed, found, f"ulimit -n {needed}, or LimitNOFILE= in its unit"
    )


def socket_buffers(asked: int) -> Finding:
    """Whether a UDP socket may wait for us with so many octets: bursts of INVITEs, packets while a loop is away."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, asked)
        given = tried.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    found = f"{given >> 10} KiB given, {asked >> 10} KiB asked for"
    return Finding(
        "socket buffers", given >= asked, found, f"sysctl -w net.core.rmem_max={asked}", fatal=False
    )


def _run_dir(settings: GatewaySettings) -> Finding:
    directory = settings.run_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = directory.stat()
    except OSError as wrong:
        return Finding("run directory", False, f"{directory}: {wrong.strerror}", "set MICROTURN_RUN_DIR")
    good = seen.st_uid == os.getuid() and not seen.st_mode & 0o077 and os.access(directory, os.W_OK)
    found = f"{directory}, owner {seen.st_uid}, mode {seen.st_mode & 0o777:o}"
    return Finding("run directory", good, found, f"it must be yours alone: chmod 700 {directory}")


def _pjsua2(settings: GatewaySettings) -> Finding:
    try:
        library = ask_library()
    except ValueError as wrong:
        return Finding("pjsua2", False, str(wrong), "make setup")
    found = f"{library.version}, {library.calls} calls in a process{', IPv6' if library.ipv6 else ''}"
    if settings.rtp_host6 and not library.ipv6:
        advice = "`make pjsip` builds one with IPv6; or leave rtp_host6 empty"
        return Finding("pjsua2", False, f"{found}: no IPv6 for rtp_host6 = {settings.rtp_host6!r}", advice)
    advice = "the ready-made wheel: fine for a first call; `make pjsip` builds what a phone line needs"
    return Finding("pjsua2", not library.is_wheel, found, advice, fatal=False)


def kept_state(settings: GatewaySettings) -> Finding:
    """Calls are taken without it; what is known of them is not kept then."""
    if settings.redis == "off":
        return Finding("Redis", True, "off: the state of calls is not kept")
    address = settings.state_address
    if address is None:
        program = embedded.find_server()
        found = f"`microturn up` starts {program}" if program else "no server here"
        return Finding("Redis", program is not None, found, embedded.MISSING, fatal=False)
    from gateway.state.sessions import ask_server

    try:
        found = f"{ask_server(settings, address)}, {address}"
    except OSError as wrong:
        advice = "calls go on without it, and their state waits: start it, or mend redis and redis_password"
        return Finding("Redis", False, f"{address}: {wrong}", advice, fatal=False)
    return Finding("Redis", True, found)


def open_weights(settings: GatewaySettings) -> Finding:
    """Whether the weights of `moshi` are here, and how many calls there is memory for."""
    held = ask_moshi(settings.weights, settings.slots if "slots" in settings.model_fields_set else None)
    return Finding("moshi", held.good, held.found, held.advice, fatal=not held.can_start)


def _compiler() -> Finding:
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    advice = "digits holds half as many calls on a core without one: apt-get install gcc libc6-dev"
    return Finding("C compiler", found is not None, found or "none", advice, fatal=False)


def _gpu() -> Finding:
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    found = f"{len(devices)} device(s)" if devices else "none"
    return Finding("GPU", bool(devices), found, "not needed by the echo engine", fatal=False)
