"""Where positions of a call lie: in pages, by a table of page numbers a call.

    table[b] = [first pages | ring pages]

Position p lies in ring page (p / page) mod ring, at p mod page; a position below `first` also in first page
p / page. A page of the ring holds positions that follow one another, so a block of keys is one page.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MIN_PAGE, MAX_PAGE = 16, 128
"""A tensor core takes 16 keys at least."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a position sees, and how many pages that takes; a wrong one raises `ValueError`."""

    visible: int
    """Newest positions, the position itself included."""
    first: int
    """Positions at the start of the call that are never forgotten."""
    page: int
    """Positions of a page."""
    ring: int
    """Pages."""

    def __post_init__(self) -> None:
        checks = (
            (MIN_PAGE <= self.page <= MAX_PAGE, f"page is {MIN_PAGE} .. {MAX_PAGE}"),
            (self.page & (self.page - 1) == 0, "page is a power of two"),
            (self.visible >= 1 and self.first >= 0, "visible is at least 1, first at least 0"),
            (self.most_at_once >= 1, "the ring has room for the visible positions"),
        )
        for holds, expected in checks:
            if not holds:
                raise ValueError(f"expected {expected}: {self}")

    @property
    def first_pages(self) -> int:
        """Of a call."""
        return -(-self.first // self.page)

    @property
    def pages(self) -> int:
        """Of a call, all of them."""
        return self.first_pages + self.ring

    @property
    def most_at_once(self) -> int:
        """Positions of one pass: a pass writes first, and its first position sees `visible` ones then."""
        return self.ring * self.page - self.visible + 1


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Keys and values of one layer, of all calls."""

    keys: Tensor  # [pages, G, page, D]
    values: Tensor

    @property
    def heads(self) -> int:
        """G."""
        return self.keys.shape[1]

    @property
    def width(self) -> int:
        """D."""
        return self.keys.shape[3]
