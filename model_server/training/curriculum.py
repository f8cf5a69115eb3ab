"""What is taught when: first to hear, then to converse.

Hearing is taught by short conversations full of digits, over lines that hardly disturb; every skill is there from
the beginning, so that nothing has to be unlearned. Then come whole conversations of every skill, over the lines
that calls have; in every fourth batch half as many that are twice as long, for what takes so long to go wrong.
"""

from __future__ import annotations

from model_server.training.batches import SHARES, Length, Lesson

HEARING = {
    "read back": 0.3,
    "interpret": 0.3,
    "stop": 0.15,
    "correct": 0.1,
    "ask for help": 0.06,
    "every": 0.05,
    "count": 0.04,
}
"""Shares of the first lesson."""
LONG_EVERY = 4
"""Batches, of which the last has long conversations."""


def lesson(batch: int, hearing: int, turns: int) -> Lesson:
    """Of batch number `batch`; the first `hearing` ones teach to hear. Conversations last `turns` at most.

    Half as many turns in the first lesson, twice as many in long conversations; lines get harder from a fifth of
    it on, and are real ones at its end.
    """
    if batch >= hearing:
        longest = 2 * turns if batch % LONG_EVERY == LONG_EVERY - 1 else turns
        return Lesson(SHARES, Length(max(1, longest * 5 // 6), longest))
    hardness = max(0.0, batch / hearing - 0.2) / 0.8
    return Lesson(HEARING, Length(max(1, turns * 5 // 12), max(1, turns // 2)), hardness)
