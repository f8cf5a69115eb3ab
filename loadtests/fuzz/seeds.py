"""What a target begins with: real messages that lie beside the tree, its own, and what broke it once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loadtests.fuzz.target import Target

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
BROKEN = ROOT / "tests" / "loadtests" / "fuzz" / "broken"
MOST_BYTES = 8_192
"""Of an input: longer ones are refused at the doors."""


def broken(target: Target) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of what broke it once."""
    for file in sorted((BROKEN / target.name).glob("*")):
        yield file.name, file.read_bytes()


def seeds(target: Target) -> Iterator[tuple[str, bytes]]:
    """All that it begins with."""
    for number, seed in enumerate((*target.seeds, *target.make_seeds())):
        yield f"own-{number}", seed
    yield from broken(target)
    if target.folder:
        for file in sorted((SHARED / target.folder).rglob("*")):
            if file.is_file() and file.stat().st_size <= MOST_BYTES:
                yield file.name, file.read_bytes()
