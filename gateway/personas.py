"""Personas, and names that are called: what an operator may write. Who gets which is in `gateway/rules.py`."""

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
        check_name(name, "personas")
        check_persona(persona, f"personas: {name}")


def check_name(name: str, where: str) -> None:
    """`ValueError` for what nobody could call."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{where} has {name!r}: a name or number that is called has 1 to 64 letters, digits and +*#._-"
        )


def check_persona(persona: str, where: str) -> None:
    """`ValueError` for what no model server would take."""
    if not persona.isprintable() or not 0 < len(persona) <= MOST_PERSONA_LETTERS:
        raise ValueError(
            f"{where} = {persona!r}: expected words such as: read-back expect=6; "
            f"{MOST_PERSONA_LETTERS} letters at most"
        )
