# SPDX-License-Identifier: GPL-3.0-or-later
"""The screen in front of the workers: bodies that they must never see (each rule stands for an abort of
pjsua2), and what an SDP offer asks for.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from gateway.sip.header import BadMessage, Header, find, media_type
from gateway.sip.message import Message

MAX_SDP_LINE_BYTES: Final = 200  # pjsua2 aborts on addresses of 254 and more
MAX_SDP_MEDIA: Final = 8

_ACCEPT = Header.make(b"Accept", b"application/sdp")
_STRAY = re.compile(rb"\x00|\r(?!\n)")
_SDP_TYPE = re.compile(rb"[a-z]=")
_FIRST_AUDIO = re.compile(rb"^m=audio +[^\s]+ +[^\n ]+ +([0-9]+)\b", re.M)
_AUDIO_IN_USE = re.compile(rb"m=audio +(?!0[ /])")
_RTPMAP_ILBC = re.compile(rb"a=rtpmap:\s*(\S+)\s+ilbc\s*/", re.I)
_FMTP = re.compile(rb"a=fmtp:\s*(\S+)\s+(.*)", re.I)
_ILBC_MODE = re.compile(rb"mode\s*=\s*([^;\s]*)", re.I)


def screen_body(message: Message, sound6: bool = False, family6: bool | None = None) -> None:
    """Raise BadMessage (400, 415, 488) unless the body is one that a worker may see; with `sound6` sound may be
    IPv6, and `family6` says whether it is in this call, which keeps to that."""
    if not message.body:
        return
    kind = media_type(message.headers)
    if not kind:
        raise BadMessage(400, "Content-Type Required")
    encoding = find(message.headers, b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise BadMessage(
            415, "Content-Encoding Not Supported", (Header.make(b"Accept-Encoding", b"identity"),)
        )
    if kind == b"application/sdp":
        screen_sdp(message.body, sound6)
        if family6 is not None and (family := family_of(message.body)) and (family == 6) is not family6:
            raise _not_acceptable(f"sound of this call is IPv{6 if family6 else 4}", 301)
    elif kind.startswith(b"multipart/") or message.method in (b"INVITE", b"ACK", b"PRACK", b"UPDATE"):
        raise BadMessage(415, "Unsupported Media Type", (_ACCEPT,))


def screen_sdp(body: bytes, sound6: bool = False) -> None:
    """Raise BadMessage for SDP (RFC 4566) that is malformed (400), that aborts a worker (488), or whose sound is
    IPv6 without `sound6` (488)."""
    if _STRAY.search(body):
        raise BadMessage(400, "Bad SDP")
    lines = [line.rstrip(b"\r") for line in body.rstrip().split(b"\n")]
    session_version = 0
    versions: list[int] = []  # of the address of each m= line: 4, 6, or 0 for none of its own
    ilbc: set[bytes] = set()
    for line in lines:
        if len(line) > MAX_SDP_LINE_BYTES:
            raise _not_acceptable("SDP line too long")
        if not _SDP_TYPE.match(line):
            raise BadMessage(400, "Bad SDP")
        if line.startswith(b"m="):
            versions.append(0)
            if len(versions) > MAX_SDP_MEDIA:
                raise _not_acceptable("too many media lines")
        elif line.startswith(b"c="):
            version = _screen_address(line[2:].split())
            if versions:
                versions[-1] = version
            else:
                session_version = version
        elif line.startswith(b"a="):
            _screen_attribute(line, ilbc)
    if versions and not session_version and not all(versions):
        raise _not_acceptable("SDP without c=")
    all6 = bool(versions) and {version or session_version for version in versions} == {6}
    if not sound6 and (all6 or family_of(body) == 6):
        raise _not_acceptable("sound is IPv4 alone", 301)
    for line in lines if ilbc else ():
        fmtp = _FMTP.match(line)
        if fmtp and fmtp[1] in ilbc and any(m not in (b"20", b"30") for m in _ILBC_MODE.findall(fmtp[2])):
            raise _not_acceptable("iLBC mode")


def prefers_wideband(body: bytes) -> bool:
    """Whether the first audio line of an SDP offer names G.722 (payload type 9, RFC 3551) first."""
    match = _FIRST_AUDIO.search(body)
    return match is not None and match[1] == b"9"


def family_of(body: bytes) -> int:
    """4 or 6: that of the first audio line that is in use, of a description that was screened; 0 where none is."""
    session, found, in_audio, in_media = b"", b"", False, False
    for line in body.split(b"\n"):
        if line.startswith(b"m="):
            if in_audio:
                break
            in_media, in_audio = True, _AUDIO_IN_USE.match(line) is not None
        elif line.startswith(b"c="):
            found = line if in_audio else found
            session = line if not in_media else session
    address = (found or session)[2:].upper().split()
    return 0 if not in_audio else 6 if address[1:2] == [b"IP6"] else 4


def _screen_attribute(line: bytes, ilbc: set[bytes]) -> None:
    lower = line[:9].lower()
    if lower.startswith(b"a=rtcp:"):
        words = line[7:].split()
        if not words or not words[0].isdigit() or len(words[0]) > 5:
            raise _not_acceptable("a=rtcp")
        if len(words) > 1:
            _screen_address(words[1:])
    elif lower == b"a=rtpmap:" and (match := _RTPMAP_ILBC.match(line)):
        ilbc.add(match[1])


def _screen_address(words: list[bytes]) -> int:
    """`IN IP4 address[/ttl]`; gives 4 or 6.  Numeric only: a name would have a worker wait for the DNS with its
    media stopped."""
    if len(words) != 3 or words[0].upper() != b"IN" or len(words[2]) > 64:
        raise _not_acceptable("SDP address")
    try:
        version = ipaddress.ip_address(words[2].split(b"/", 1)[0].decode("ascii")).version
    except ValueError:
        raise _not_acceptable("SDP address") from None
    if words[1].upper() != b"IP%d" % version:
        raise _not_acceptable("SDP address")
    return version


def _not_acceptable(text: str, code: int = 399) -> BadMessage:
    warning = Header.make(b"Warning", b'%d microturn "%b"' % (code, text.encode()))  # RFC 3261 20.43
    return BadMessage(488, "Not Acceptable Here", (warning,))
