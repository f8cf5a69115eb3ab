"""`python -m loadtests fuzz`: every parser of ours against bytes that libFuzzer invents (package `atheris`).

    target.py    what is fuzzed: bytes in, and what it may raise
    media.py     parsers of media/ and its organs that keep state
    signalling.py   SIP, SDP, identities
    browsers.py     WebRTC's and HTTP's
    inside.py    what processes of ours say to each other, what lies on disk
    seeds.py     what it begins with: real messages beside the tree, and what each target brings along
    one.py       one target in a process of its own; where it dies, its input is kept
    command.py   all of them, table and row

One rule: what broke a target once lies in `tests/loadtests/fuzz/broken/TARGET`, and is tried by every test run.
"""

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """See `command.main`; imported here, since what is imported before a target's process begins has no eyes."""
    from loadtests.fuzz import command

    return command.main(argv)
