# SPDX-License-Identifier: GPL-3.0-or-later
"""What a trunk may have in its session descriptions: codecs, and SRTP or not.  Written into the SDP that passes the
edge, since a worker serves all trunks alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from gateway.sip.digest import Login
from gateway.sip.header import BadMessage, Header, media_type
from gateway.sip.message import Request

_STATIC: Final = {b"0": "PCMU", b"8": "PCMA", b"9": "G722", b"13": "CN"}
CODECS: Final = ("PCMU", "PCMA", "G722")
NARROWBAND: Final = CODECS[:2]
_BESIDE: Final = ("TELEPHONE-EVENT", "CN")
_AUDIO = re.compile(rb"m=audio +([0-9]{1,5}(?:/[0-9]+)?) +([^ ]+) +(.+)")
_RTPMAP = re.compile(rb"a=rtpmap:([0-9]{1,3}) +([^/ ]+)")
_OF_FORMAT = re.compile(rb"a=(?:rtpmap|fmtp|rtcp-fb):([0-9]{1,3})\b")
_CRYPTO: Final = b"a=crypto:"


@dataclass(frozen=True, slots=True)
class Policy:
    """Of one call."""

    codecs: tuple[str, ...] = ()
    """Those that may be used, the first liked most; empty is all."""
    srtp: int | None = None
    """0 off, 1 optional, 2 required; None is as the workers are set."""
    login: Login | None = None
    """Who we are where the peer asks for digest."""
    offers6: bool = False
    """To an INVITE without an offer we offer sound over IPv6."""

    def of_peer(self, request: Request) -> Request:
        """A request of the peer as its worker shall see it.  Raises BadMessage(488) where nothing is left to be
        talked in, or where it talks in the clear and must not, or the other way round."""
        if not request.body or media_type(request.headers) != b"application/sdp":
            return request
        if self.srtp is None and not self.codecs:
            return request
        body = self._srtp_checked(request.body)
        if self.codecs:
            limited = limit_codecs(body, self.codecs)
            if limited is None:
                raise _refusal(f"only {', '.join(self.codecs)} on this trunk")
            body = limited
        return with_body(request, body)

    def of_worker(self, body: bytes) -> bytes:
        """A description of ours: what may not be offered is left out, an answer has it no more."""
        return (limit_codecs(body, self.codecs) or body) if self.codecs else body

    def _srtp_checked(self, body: bytes) -> bytes:
        if self.srtp not in (0, 2):
            return body
        found = re.search(rb"^m=audio +[^ ]+ +([^ ]+)", body, re.M)
        if found is None:
            return body
        is_secure = b"SAVP" in found[1].upper()
        if self.srtp == 0:
            if is_secure:
                raise _refusal("no SRTP on this trunk")
            return re.sub(rb"^a=crypto:[^\r\n]*\r?\n?", b"", body, flags=re.M)
        if not is_secure or _CRYPTO not in body:
            raise _refusal("SRTP (SDES) is required on this trunk")
        return body


OPEN: Final = Policy()


def check_spoken(request: Request, wideband: bool) -> None:
    """Raise BadMessage(488) for an offer within a call that its worker could only refuse: pjsua2 answers 500."""
    if request.method not in (b"INVITE", b"UPDATE") or media_type(request.headers) != b"application/sdp":
        return
    if request.body and limit_codecs(request.body, CODECS if wideband else NARROWBAND) is None:
        raise _refusal("PCMU or PCMA")


def with_body(request: Request, body: bytes) -> Request:
    """A copy with another body, and its length."""
    if body == request.body:
        return request
    headers = [h for h in request.headers if h.name != b"content-length"]
    headers.append(Header.make(b"Content-Length", b"%d" % len(body)))
    return replace(request, headers=headers, body=body)


def limit_codecs(body: bytes, codecs: tuple[str, ...]) -> bytes | None:
    """A description whose audio has these codecs alone, in this order, with telephone events; None where an audio
    line that is in use would have none of them.  Other media lines stay."""
    end = b"\r\n" if b"\r\n" in body else b"\n"
    lines = body.rstrip(b"\r\n").split(end)
    starts = [at for at, line in enumerate(lines) if line.startswith(b"m=")] + [len(lines)]
    out = lines[: starts[0]]
    for start, stop in zip(starts, starts[1:], strict=False):
        section = _limited(lines[start:stop], codecs)
        if section is None:
            return None
        out += section
    return end.join(out) + end


def _limited(section: list[bytes], codecs: tuple[str, ...]) -> list[bytes] | None:
    match = _AUDIO.fullmatch(section[0].rstrip())
    if match is None or match[1] == b"0":
        return section
    names = dict(_STATIC)
    for line in section[1:]:
        if found := _RTPMAP.match(line):
            names[found[1]] = found[2].decode("ascii", "replace").upper()
    formats = match[3].split()
    kept = [f for codec in codecs for f in formats if names.get(f) == codec]
    if not kept:
        return None
    kept += [f for f in formats if names.get(f) in _BESIDE]
    rest = [line for line in section[1:] if (found := _OF_FORMAT.match(line)) is None or found[1] in kept]
    return [b"m=audio %b %b %b" % (match[1], match[2], b" ".join(kept)), *rest]


def _refusal(text: str) -> BadMessage:
    return BadMessage(
        488, "Not Acceptable Here", (Header.make(b"Warning", f'399 microturn "{text}"'.encode()),)
    )
