"""What a synthetic caller is made to say: lines of one breath each, in the words of the skills and in others.

A *label* is what one word of a clip is called, with a space in it where it is two spoken words (`how many`).
Labels that the vocabulary has a `heard:` token for are turned into it by `token_of`; all others mean nothing.
"""

from __future__ import annotations

import numpy as np

from model_server.model.vocabulary import HEARD_WORDS, IDS
from model_server.training.corpus import DIGITS

OH = "oh"
SPOKEN_DIGITS = (*DIGITS, OH)
COMMANDS = tuple(word.replace("-", " ") for word in HEARD_WORDS)
OTHERS = (
    *("happy", "house", "marvin", "sheila", "learn", "tree", "visual", "wow", "bird", "cat", "dog", "bed"),
    *("thank you", "hold on a moment", "my number is", "the code is", "let me see", "well", "maybe", "sorry"),
    *("it starts with", "good morning", "can you hear me", "yeah", "i think", "the next ones are", "wait"),
    *(
        "good night",
        "tell me a joke",
        "how are you",
        "nothing",
        "letter",
        "paper",
        "water",
        "coffee",
        "music",
    ),
    *("monday", "friday", "january", "seventy", "sixty", "fifteen", "hundred", "thousand", "table", "window"),
    *(
        "fun",
        "fine",
        "sun",
        "tea",
        "tree house",
        "sticks",
        "heaven",
        "height",
        "gate",
        "line",
        "hero",
        "flow",
    ),
    *("stock", "step", "stamp", "top", "shop", "never", "very", "second", "many", "house", "blue", "sand"),
)
"""Not for us; the last two rows sound like words that are."""

Line = tuple[str, ...]


def token_of(label: str) -> str | None:
    """The `heard:` token of a word that the caller says, None where there is none."""
    if label == OH:
        return "heard:0"
    name = f"heard:{DIGITS.index(label)}" if label in DIGITS else "heard:" + label.replace(" ", "-")
    return name if name in IDS else None


def script(rng: np.random.Generator, digits: int, commands: int, others: int) -> list[Line]:
    """What one voice says: `digits` digits in groups of 1..4, then commands, questions and other words."""
    lines = _groups(rng, digits)
    lines += [(label,) for label in ("stop", *rng.choice(COMMANDS, commands, replace=False).tolist())]
    lines.append((_digit(rng), str(rng.choice(["plus", "plus", "minus", "times"])), _digit(rng)))
    lines.append(("every", DIGITS[int(rng.integers(2, 10))], "seconds"))
    lines.append(("how many", str(rng.choice(OTHERS))))
    for label in rng.choice(OTHERS, others, replace=False).tolist():
        lines.append((label,))
    return lines


def strings(rng: np.random.Generator, count: int) -> list[Line]:
    """So many lines of four or five digits in one breath, as they run into one another. The digits that they
    begin with are all different, up to ten."""
    first = rng.permutation(10)
    return [
        (DIGITS[int(first[at % 10])], *(_digit(rng) for _ in range(int(rng.integers(3, 5)))))
        for at in range(count)
    ]


def _groups(rng: np.random.Generator, digits: int) -> list[Line]:
    lines: list[Line] = []
    while digits > 0:
        size = int(min(digits, rng.choice([1, 2, 3, 4], p=[0.4, 0.2, 0.25, 0.15])))
        lines.append(tuple(_digit(rng) for _ in range(size)))
        digits -= size
    return lines


def _digit(rng: np.random.Generator) -> str:
    digit = DIGITS[int(rng.integers(10))]
    return OH if digit == "zero" and rng.random() < 0.4 else digit
