# SPDX-License-Identifier: GPL-3.0-or-later
"""What the edge tells a worker about a call, in headers of its INVITE; whatever peers send under these names is
taken away."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal
from urllib.parse import quote, unquote

from gateway.sip.header import Header
from gateway.sip.message import Request

PREFIX: Final = b"x-microturn-"
Marks = Callable[[Request], tuple[Header, ...]]
"""Headers for the worker that gets this INVITE; asked again for each retransmission."""
_RECORDING = re.compile(r"^X-Microturn-Recording: yes\r?$", re.M)
_TENANT = re.compile(r"^X-Microturn-Tenant: (\S*)\r?$", re.M)
_SOURCE = re.compile(r"^X-Microturn-Rtp: (lock|sdp)\r?$", re.M)
_SOUND6 = re.compile(r"^X-Microturn-Sound: ip6\r?$", re.M)
_ENGINE = re.compile(r"^X-Microturn-Engine: ([a-z0-9-]*)\r?$", re.M)
_PERSONA = re.compile(r"^X-Microturn-Persona: (\S*)\r?$", re.M)


def persona_mark(persona: str) -> tuple[Header, ...]:
    """What the model is to be in the call; none for the usual one."""
    return (Header.make(b"X-Microturn-Persona", quote(persona).encode()),) if persona else ()


def persona_of(message: str) -> str:
    """Of the INVITE that a worker got."""
    found = _PERSONA.search(message.partition("\r\n\r\n")[0])
    return unquote(found[1]) if found else ""


def engine_mark(engine: str) -> tuple[Header, ...]:
    """Which of the engines answers the call; none for the usual one."""
    return (Header.make(b"X-Microturn-Engine", engine.encode()),) if engine else ()


def engine_of(message: str) -> str:
    """Of the INVITE that a worker got."""
    found = _ENGINE.search(message.partition("\r\n\r\n")[0])
    return found[1] if found else ""


def tenant_mark(tenant: str) -> tuple[Header, ...]:
    """Whose call it is; none for nobody's."""
    return (Header.make(b"X-Microturn-Tenant", quote(tenant).encode()),) if tenant else ()


def tenant_of(message: str) -> str:
    """Of the INVITE that a worker got."""
    found = _TENANT.search(message.partition("\r\n\r\n")[0])
    return unquote(found[1]) if found else ""


def recording_mark(allowed: bool) -> tuple[Header, ...]:
    """That the call may be recorded; none where it may not."""
    return (Header.make(b"X-Microturn-Recording", b"yes"),) if allowed else ()


def may_be_recorded(message: str) -> bool:
    """Of the INVITE that a worker got."""
    return _RECORDING.search(message.partition("\r\n\r\n")[0]) is not None


def source_mark(policy: str) -> tuple[Header, ...]:
    """Whom its RTP may come from (`pj/source.py`); none where it is anybody."""
    return (Header.make(b"X-Microturn-Rtp", policy.encode()),) if policy != "learn" else ()


def source_of(message: str) -> Literal["learn", "lock", "sdp"]:
    """Of the INVITE that a worker got."""
    found = _SOURCE.search(message.partition("\r\n\r\n")[0])
    return "learn" if found is None else "lock" if found[1] == "lock" else "sdp"


def sound_mark(sound6: bool) -> tuple[Header, ...]:
    """That its sound is IPv6; none where it is IPv4."""
    return (Header.make(b"X-Microturn-Sound", b"ip6"),) if sound6 else ()


def has_sound6(message: str) -> bool:
    """Of the INVITE that a worker got."""
    return _SOUND6.search(message.partition("\r\n\r\n")[0]) is not None


def unmarked(headers: list[Header]) -> list[Header]:
    """Without what only we may say."""
    return [header for header in headers if not header.name.startswith(PREFIX)]
