"""`python -m loadtests fdb`: Full-Duplex-Bench, versions 1, 1.5 and 3, through real calls.

    layout.py    the published folders, and what is written beside each sample
    calls.py     samples through SIP or WebRTC calls, answers on the same clock
    words.py     words and their times, from the sound or from the model's own text
    speech.py    where somebody speaks
    scores.py    the figures that need no judge
    figures.py   of each subset; command.py: the command; picture.py: time lines

One rule: what is judged is what lies in the folder afterwards, so the published scripts judge the same.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """See `command.py`."""
    from loadtests.fdb.command import main as command

    return command(argv)
