# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of peers as the workers' library reads them: what it would take for something else is said otherwise."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from gateway.sip.header import BadMessage, Header, find
from gateway.sip.message import Request

DTMF_TYPES: Final = (b"application/dtmf", b"application/dtmf-relay")
_DTMF_DIGIT = re.compile(rb"[0-9A-Da-d*#]")
_DTMF_NUMBER: Final = {b"10": b"*", b"11": b"#", b"12": b"A", b"13": b"B", b"14": b"C", b"15": b"D"}


def without_replaces(request: Request) -> list[Header]:
    """The headers of an INVITE that may want to take the place of another call (RFC 3891): it becomes a call of its
    own, since the other one may be at another worker.  Raises BadMessage(420) where nothing less will do."""
    if find(request.headers, b"replaces") is None:
        return request.headers
    required = b",".join(h.value for h in request.headers if h.name == b"require").lower()
    if b"replaces" in [option.strip() for option in required.split(b",")]:
        raise BadMessage(420, "Bad Extension", (Header.make(b"Unsupported", b"replaces"),))
    return [h for h in request.headers if h.name != b"replaces"]


def dtmf_relay(request: Request) -> Request:
    """INFO application/dtmf, or application/dtmf-relay in any of its ways of writing, as the worker's library reads
    it; raises BadMessage(400) for more or less than one digit."""
    text, duration = request.body.strip(), b"160"
    for line in text.splitlines():
        name, equals, value = line.replace(b":", b"=", 1).partition(b"=")
        if equals and name.strip().lower() == b"signal":
            text = value.strip()
        elif equals and name.strip().lower() == b"duration" and re.fullmatch(rb"[0-9]{1,5}", value.strip()):
            duration = value.strip()
    digit = _DTMF_NUMBER.get(text, text)
    if not _DTMF_DIGIT.fullmatch(digit):
        raise BadMessage(400, "Bad DTMF")
    body = b"Signal=%b\r\nDuration=%b\r\n" % (digit.upper(), duration)
    headers = [h for h in request.headers if h.name not in (b"content-type", b"content-length")]
    headers.append(Header.make(b"Content-Type", b"application/dtmf-relay"))
    headers.append(Header.make(b"Content-Length", b"%d" % len(body)))
    return replace(request, headers=headers, body=body)
