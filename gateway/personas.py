"""What the model is to be in a call, by the name or number that was called: the setting `personas`.

A telephone calls it in its request's URI (RFC 3261 19.1.1), a browser in WHIP's: `/whip?to=NAME`. A telephone that
calls a number that is not listed gets the model server's own persona.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

MOST_PERSONA_LETTERS: Final = 256
_NAME = re.compile(r"[A-Za-z0-9+*#._-]{1,64}")
_USER = re.compile(r"[A-Z]+ sips?:([^\s@]{1,200})@", re.IGNORECASE)


def called(request: str) -> str:
    """User part of a SIP request's URI, without parameters and password; "" where there is none."""
    found = _USER.match(request)
    return unquote(re.split("[;:]", found[1])[0]) if found else ""


def check(personas: Mapping[str, str]) -> None:
    """`ValueError` for an entry that nobody could call, or that no model server would take."""
    for name, persona in personas.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"personas has {name!r}: a name or number that is called has 1 to 64 letters, digits and +*#._-"
            )
        if not persona.isprintable() or not 0 < len(persona) <= MOST_PERSONA_LETTERS:
            raise ValueError(
                f"personas: {name} = {persona!r}: expected words such as: read-back expect=6; "
                f"{MOST_PERSONA_LETTERS} letters at most"
            )
