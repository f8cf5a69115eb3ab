"""Rows of figures in a CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "loadtests" / "results"


def append_row(path: Path, result: Mapping[str, Any]) -> None:
    """Add one row with its date; lists and objects as JSON. Columns that are new to the file are left out."""
    row = {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    row |= {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in result.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(row)
    if path.exists():
        with path.open(newline="") as file:
            columns = next(csv.reader(file))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
