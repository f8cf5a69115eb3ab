"""Rules of what the model may not say, as they are used; `policy_file` reads them.

RE2 and not `re`: its time is linear in the text, so no pattern can hold a turn up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, get_args

import msgspec

Do = Literal["report", "cut", "replace", "hang-up"]
GRAVITY: Final[tuple[Do, ...]] = get_args(Do)
"""The later, the graver: of rules that are met in one turn the gravest decides."""
CAUSE: Final = "safety"
"""Of a call that a rule has ended, in its record."""
PATTERN_MEMORY: Final = 1 << 20
Search = Callable[[str, int], Any]


class Rule(msgspec.Struct, frozen=True):
    """What is not to be said, and what is done about it."""

    name: str
    do: Do
    words: tuple[str, ...] = ()
    """Phrases, normalised: ` go to hell `."""
    pattern: str = ""
    """RE2, over normalised text."""
    personas: tuple[str, ...] = ()
    """Patterns (`*`) of the personas that it is for; none is all."""
    tenants: tuple[str, ...] = ()
    sound: str = ""
    """File that is heard instead."""

    def is_for(self, persona: str, tenant: str) -> bool:
        """Whether calls of that persona and tenant have it."""
        return _any(self.personas, persona) and _any(self.tenants, tenant)

    def search(self) -> Search | None:
        """Of its pattern: the first match behind a place in a text; None where it has none."""
        return compiled(self.pattern).search if self.pattern else None


class Policy(msgspec.Struct, frozen=True):
    """All rules, in their order."""

    rules: tuple[Rule, ...] = ()
    lookahead: int = 0
    """Turns that everything is heard later, so that a phrase over several turns is not heard in part."""


@functools.lru_cache(1024)
def compiled(pattern: str) -> Any:
    """Once for all calls of a worker. `ValueError` for what is no RE2."""
    import re2  # who sets no pattern does not load it

    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as wrong:
        told = wrong.args[0] if wrong.args else ""
        raise ValueError(told.decode(errors="replace") if isinstance(told, bytes) else str(told)) from None


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
