"""What is fuzzed: bytes in, and what may come of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

Take = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, or one organ that is driven by bytes."""

    name: str
    prepare: Callable[[], Take]
    """Imports what is fuzzed and gives it; called once in a process. What is imported within is instrumented."""
    may_raise: Callable[[], tuple[type[Exception], ...]] = tuple
    """What its docstring says that it raises; empty for what never raises."""
    seeds: tuple[bytes, ...] = ()
    folder: str = ""
    """Below ../shared/data: more seeds."""
    make_seeds: Callable[[], tuple[bytes, ...]] = tuple
    """Those that are not written by hand."""

    def made(self) -> Take:
        """Takes bytes; what comes out of it is a defect."""
        take, expected = self.prepare(), self.may_raise()

        def guarded(data: bytes) -> None:
            with contextlib.suppress(*expected):
                take(data)

        return guarded


class Script:
    """Bytes read as numbers, for organs that are driven by more than one message; zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int, *, signed: bool = False) -> int:
        """Of so many bytes."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big", signed=signed)

    def take(self, size: int) -> bytes:
        """The next so many bytes, or those that are left."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken
