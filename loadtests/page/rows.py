"""Rows of results files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

Row = Mapping[str, str]
Fits = Callable[[Row], bool]


def newest(file: Path, fits: Fits) -> Row | None:
    """The last row that fits; None where there is none."""
    return next((row for row in reversed(_rows(file)) if fits(row)), None)


def newest_run(file: Path, fits: Fits) -> list[Row]:
    """All rows of the last run that has one that fits: those of its date."""
    last = newest(file, fits)
    return [row for row in _rows(file) if last is not None and row["date"] == last["date"] and fits(row)]


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def value(row: Row, column: str) -> float | str | None:
    """A number where it is one; `x:k` is the entry k of a column of JSON."""
    name, colon, key = column.partition(":")
    told = row.get(name) or ""
    if colon and told:
        entries = json.loads(told)
        told = str(entries[int(key)] if isinstance(entries, list) else entries[key])
    try:
        return float(told)
    except ValueError:
        return told or None
