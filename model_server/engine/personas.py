"""Personas of `digits`: a line of words to the tokens that a call begins with.

    persona    = ""  |  everything  |  "correct" DIGITS  |  "interpret"  |  "count"  |  "every" [N]
    everything = "read-back" ["help"] ["every"] ["expect=" COUNT]     in any order, "read-back" may be left out

The network knows no others: these are the combinations that it was trained with. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from model_server.model.vocabulary import ids_of

DEFAULT = "read-back help every"
"""Of a call that names none: strings are read back, questions passed on, and it can be asked to speak every N
seconds."""
POSSIBLE = (
    "read-back [help] [every] [expect=1..16]",
    "correct DIGITS (4 to 10 of them)",
    "interpret",
    "every [2..9]",
    "count",
)
COUNT = "<count>"
_EVERYTHING = ("read-back", "help", "every")
_TRAINED = ({"read-back"}, {"read-back", "help"}, {"read-back", "help", "every"})
_CORRECT_DIGITS = range(4, 11)


def tokens_of(persona: str) -> tuple[int, ...]:
    """The tokens of a persona; `ValueError` says what is possible."""
    names = _names(persona.lower().split())
    if names is None:
        raise ValueError(f"persona = {persona!r}: expected one of: {'; '.join(POSSIBLE)}")
    return ids_of(("<persona>", *names)) if names else ()


def _names(words: Sequence[str]) -> tuple[str, ...] | None:
    match words:
        case []:
            return ()
        case ["correct", digits]:
            known = digits.isdecimal() and digits.isascii() and len(digits) in _CORRECT_DIGITS
            return ("<correct>", *(f"<digit:{digit}>" for digit in digits)) if known else None
        case ["interpret"] | ["every"]:
            return (f"<{words[0]}>",)
        case ["count"]:
            return (COUNT,)
        case ["every", number]:
            return (f"<every:{number}>",) if number in {str(n) for n in range(2, 10)} else None
        case _:
            return _everything(words)


def _everything(words: Sequence[str]) -> tuple[str, ...] | None:
    skills = {word for word in words if not word.startswith("expect=")} | {"read-back"}
    counts = [word.removeprefix("expect=") for word in words if word.startswith("expect=")]
    if skills not in _TRAINED or len(counts) > 1 or len(set(words)) < len(words):
        return None
    if any(count not in {str(n) for n in range(1, 17)} for count in counts):
        return None
    return (
        *(f"<{skill}>" for skill in _EVERYTHING if skill in skills),
        *(f"<expect:{count}>" for count in counts),
    )
