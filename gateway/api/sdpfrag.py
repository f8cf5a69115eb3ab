"""SDP fragments of Trickle ICE, `application/trickle-ice-sdpfrag` (RFC 8840 section 9), as WHIP uses them.

A pure function of text. One rule: everything is bundled, so the credentials and candidates of the first media
section that has any, or of the session, are the call's; what else stands there is none of our business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MOST_CANDIDATES: Final = 64
MOST_LINES: Final = 512

_UFRAG: Final = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PWD: Final = re.compile(r"[A-Za-z0-9+/]{22,256}")
_CANDIDATE: Final = re.compile(
    r"[A-Za-z0-9+/]{1,32} \d{1,5} \S{1,16} \d{1,10} \S{1,255} \d{1,5} typ \S{1,16}(?: [ -~]{1,512})?"
)


class BadFragment(ValueError):
    """What the client got wrong, in words for it."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a client says of its side."""

    ufrag: str
    pwd: str
    candidates: tuple[str, ...]
    """Each as after `a=candidate:` (RFC 8839 section 5.1), in their order."""
    complete: bool
    """`a=end-of-candidates` was there."""


def parse(text: str) -> Fragment:
    """The fragment's credentials and candidates; `BadFragment` says which line is wrong, or what is missing."""
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if len(lines) > MOST_LINES:
        raise BadFragment(f"{len(lines)} lines: at most {MOST_LINES} are read")
    credentials: dict[str, str] = {}
    candidates: dict[str, None] = {}
    complete = False
    for number, line in enumerate(lines, 1):
        name, value = _split(number, line)
        match name:
            case "ice-ufrag" | "ice-pwd":
                _put_credential(credentials, number, name, value)
            case "candidate":
                candidates[_candidate(number, value)] = None
            case "end-of-candidates":
                complete = True
    for name in ("ice-ufrag", "ice-pwd"):
        if name not in credentials:
            raise BadFragment(f"no a={name}: it says which ICE session is meant (RFC 8840 section 4.4)")
    if len(candidates) > MOST_CANDIDATES:
        raise BadFragment(f"{len(candidates)} candidates: at most {MOST_CANDIDATES} are taken")
    return Fragment(credentials["ice-ufrag"], credentials["ice-pwd"], tuple(candidates), complete)


def ufrag_of(sdp: str) -> str:
    """The first ICE user fragment of an SDP or of a fragment of one; "" when there is none."""
    return _first(sdp, "ice-ufrag")


def credentials_of(sdp: str) -> tuple[str, str]:
    """The first ICE user fragment and password; "" for what is not there."""
    return _first(sdp, "ice-ufrag"), _first(sdp, "ice-pwd")


def _first(sdp: str, attribute: str) -> str:
    found = re.search(rf"^a={attribute}:([A-Za-z0-9+/]{{1,256}})\r?$", sdp, re.MULTILINE)
    return found[1] if found else ""


def _split(number: int, line: str) -> tuple[str, str]:
    """Name and value of an attribute; other kinds of lines have no name."""
    if not re.match(r"[a-z]=", line):
        raise BadFragment(f"line {number} is no SDP line (a letter and '='): {line[:60]!r}")
    if not line.startswith("a="):
        return "", line[2:]
    name, _, value = line[2:].partition(":")
    return name, value


def _put_credential(credentials: dict[str, str], number: int, name: str, value: str) -> None:
    pattern, least = (_UFRAG, 4) if name == "ice-ufrag" else (_PWD, 22)
    if not pattern.fullmatch(value):
        raise BadFragment(
            f"line {number}: a={name} takes {least} to 256 of A-Z a-z 0-9 + / (RFC 8839 section 5.4)"
        )
    if credentials.setdefault(name, value) != value:
        raise BadFragment(f"line {number}: a second, other a={name}: everything must be bundled")


def _candidate(number: int, value: str) -> str:
    if not _CANDIDATE.fullmatch(value):
        raise BadFragment(f"line {number} is no candidate (RFC 8839 section 5.1): {value[:60]!r}")
    return value
