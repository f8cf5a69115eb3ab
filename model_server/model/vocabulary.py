"""The tokens that `digits` reads and writes: one stream of text, 256 entries.

    <end>        closes what the model writes in a turn; implied, never a position of its own
    heard:WORD   what the model believes the caller said; never spoken
    say:WORD     what the model says, one word a token; captions are made of these and of nothing else
    <...>        actions of the model, or instructions to it (`INSTRUCTIONS`) in the persona and in results

An id is a position in `NAMES`. A checkpoint keeps the list it was trained with: add at the end of a group only
together with a new training. The other configurations have the family's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable

SIZE = 256
"""Entries, spare ones included."""

DIGITS = tuple("0123456789")
ENGLISH = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
"""Numbers as they are spoken: `say:7` is `ENGLISH[7]`."""
TENS = {30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety"}
SPANISH = ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve")
"""`say:tres` is `SPANISH[3]`."""
PHRASES = {
    **{name: name for name in ("yes", "no", "okay", "hello", "goodbye", "sorry", "stop", "now", "is", "and")},
    "let-me-check": "let me check",
    "it-is": "it is",
    "i-do-not-know": "I do not know",
}
HEARD_WORDS = (
    *("stop", "plus", "how-many", "every", "seconds", "yes", "no", "hello", "goodbye", "please", "go", "on"),
    *("off", "up", "down", "left", "right", "count", "again", "what", "minus", "times", "tell-me"),
)

END_TOKENS = "<end>"
SAID = {
    **{f"say:{value}": word for value, word in enumerate(ENGLISH)},
    **{f"say:{value}": word for value, word in TENS.items()},
    **{f"say:{word}": word for word in SPANISH},
    **{f"say:{name}": text for name, text in PHRASES.items()},
}
"""Said tokens and what they sound like."""
HEARD = (*(f"heard:{digit}" for digit in DIGITS), *(f"heard:{word}" for word in HEARD_WORDS), "heard:other")
ACTIONS = (
    *("<delegate>", "<hang-up>", "<show>", "<transfer>"),
    *(f"<send-dtmf:{key}>" for key in (*DIGITS, "*", "#")),
)
INSTRUCTIONS = (
    *("<persona>", "<read-back>", "<correct>", "<interpret>", "<count>", "<help>", "<every>"),
    *("<result>", "<failed>", "<typed>"),
    *(f"<expect:{count}>" for count in range(1, 17)),
    *(f"<every:{seconds}>" for seconds in range(2, 10)),
    *(f"<digit:{digit}>" for digit in DIGITS),
    *(f"<number:{value}>" for value in range(10, 21)),
    *(f"<dtmf:{key}>" for key in (*DIGITS, "*", "#")),
)
"""What the model is told: its persona at the start of a call, results of the background model (`<result>` and what
it found, or `<failed>`), typed text and keys pressed. `<expect:n>`, `<digit:d>` and `<number:n>` it writes, too, as
notes of where it is (`training/skills/read_back.py`, `correct.py`, `count.py`)."""

_USED = (END_TOKENS, *SAID, *HEARD, *ACTIONS, *INSTRUCTIONS)
NAMES = (*_USED, *(f"<spare:{number}>" for number in range(SIZE - len(_USED))))
"""Every token by its id."""
IDS = {name: number for number, name in enumerate(NAMES)}
assert len(NAMES) == len(IDS) == SIZE, (len(NAMES), len(IDS))
END = IDS[END_TOKENS]


def ids_of(names: Iterable[str]) -> tuple[int, ...]:
    """The ids of token names; `ValueError` for a name that is no token."""
    names = tuple(names)
    unknown = [name for name in names if name not in IDS]
    if unknown:
        raise ValueError(f"tokens {unknown}: not in the vocabulary; see model_server/model/vocabulary.py")
    return tuple(IDS[name] for name in names)


def caption_of(ids: Iterable[int]) -> str:
    """What is said by these tokens, in words with spaces between; heard words and actions are left out."""
    return " ".join(SAID[NAMES[token]] for token in ids if NAMES[token] in SAID)
