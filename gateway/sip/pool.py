"""How many SIP workers there are, what each may take, and which of them answer now.

The installed pjsua2 says how many calls it takes in a process (the wheel: 4, our own build: 1,024); the pool
never promises more. Narrowband calls go to workers whose bridge runs at 8 kHz, where G.711 costs least; calls
that offer G.722 first go to one at 16 kHz.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass

import structlog

from gateway.config import GatewaySettings
from gateway.recording.options import RecordingOptions
from gateway.sip.options import EndpointOptions, WorkerOptions

log = structlog.get_logger()

WHEEL_INVITE_SPACING_NS = 100_000_000
"""The wheel aborts at some 30 INVITEs in half a second; 10 a second leave it well alone."""
WHEEL_LIMIT = 4
RATES = {False: 8_000, True: 16_000}


@dataclass(frozen=True, slots=True)
class Library:
    """The installed pjsua2, by its own word."""

    calls: int
    version: str
    ipv6: bool = False
    """It sends and takes sound over IPv6, too."""

    @property
    def is_wheel(self) -> bool:
        """Whether it is the ready-made wheel, with its limits and its known crashes."""
        return self.calls <= WHEEL_LIMIT

    @property
    def invite_spacing_ns(self) -> int:
        """Least time between two INVITEs to one of its processes."""
        return WHEEL_INVITE_SPACING_NS if self.is_wheel else 0


def ask_library() -> Library:
    """What the installed pjsua2 takes, measured in a process of its own; `ValueError` when there is none."""
    asked = subprocess.run(
        [sys.executable, "-m", "gateway.sip.limit"], capture_output=True, text=True, timeout=60, check=False
    )
    try:
        told = json.loads(asked.stdout.splitlines()[-1])
        return Library(int(told["calls"]), str(told["version"]), bool(told["ipv6"]))
    except (IndexError, ValueError, KeyError):
        reason = (asked.stderr.strip().splitlines() or ["no output"])[-1]
        raise ValueError(f"pjsua2 does not work here ({reason}): run `make setup`") from None


def plan_workers(
    settings: GatewaySettings, library: Library, recording: RecordingOptions | None = None
) -> list[WorkerOptions]:
    """Options of every worker; fewer calls than asked for, said in the log, when the library takes no more.
    `ValueError` in words for the operator."""
    if settings.rtp_host6 and not library.ipv6:
        raise ValueError(
            f"rtp_host6 = {settings.rtp_host6!r}: pjsua2 {library.version}, which is installed, was built without "
            "IPv6: `make pjsip` builds one that has it; or leave rtp_host6 empty, and sound is IPv4 alone"
        )
    each = min(library.calls, settings.sip_calls_per_worker)
    wide = math.ceil(settings.sip_wideband_calls / each)
    narrow_calls = settings.sip_calls - settings.sip_wideband_calls
    narrow = (
        min(math.ceil(narrow_calls / each), max(1, settings.sip_max_workers - wide)) if narrow_calls else 0
    )
    shares = [(False, n) for n in _shares(narrow_calls, narrow, each)]
    shares += [(True, n) for n in _shares(settings.sip_wideband_calls, wide, each)]
    total = sum(n for _, n in shares)
    if total < settings.sip_calls:
        log.warning(
            "fewer calls than asked for", asked=settings.sip_calls, calls=total, workers=len(shares),
            reason=f"pjsua2 {library.version} takes {library.calls} in a process: `make pjsip` builds a better one",
        )  # fmt: skip
    ports, safety = settings.rtp_ports // len(shares) & ~1, settings.safety_options(settings.persona)
    return [
        WorkerOptions(
            name=f"sip-{index}",
            control=str(settings.worker_socket),
            model=str(settings.model_socket),
            engines=settings.further_sockets,
            endpoint=EndpointOptions(
                rate_hz=RATES[wideband],
                max_calls=calls,
                rtp_host=settings.rtp_host,
                rtp_host6=settings.rtp_host6,
                rtp_port=settings.rtp_port + index * ports,
                rtp_ports=ports,
                srtp=settings.worker_srtp,
                session_expires_s=settings.sip_session_expires_s,
                dtmf_out=settings.dtmf_out,
            ),
            rtp_timeout_s=settings.rtp_timeout_s,
            hold_timeout_s=settings.hold_timeout_s,
            early_media_ms=settings.early_media_ms,
            retry_after_s=settings.sip_retry_after_s,
            realtime=settings.realtime,
            log_level=settings.log_level,
            log_format=settings.log_format,
            recording=recording,
            traces=bool(settings.traces_endpoint),
            announcements=settings.announcements(settings.rtp_host, settings.rtp_host6),
            safety=safety,
            transfer_words=settings.transfer_words == "on",
            hears_tones=settings.dtmf_in == "inband",
        )
        for index, (wideband, calls) in enumerate(shares)
    ]


def _shares(calls: int, workers: int, each: int) -> list[int]:
    """`calls` spread over `workers` as evenly as may be, none above `each`."""
    if not workers:
        return []
    calls = min(calls, workers * each)
    return [calls // workers + (index < calls % workers) for index in range(workers)]
