"""Cursors: where the next page begins, in a form that a client hands back as it is.

A cursor names the last entry that was given, not a count: what is new or gone meanwhile moves nothing.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from gateway.api.problem import Problem
from gateway.reading import read_json

Place = tuple[int, str]
"""Unix ms, and what tells entries of one millisecond apart."""


def cursor_of(place: Place) -> str:
    """That the page after this entry is asked for with."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def place_of(cursor: str) -> Place | None:
    """None for the first page; `Problem` for what is no cursor of ours."""
    if not cursor:
        return None
    try:
        told = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return read_json(told, tuple[int, str])
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        raise Problem(400, "bad-cursor", "that is no cursor of a page that was given here") from None
