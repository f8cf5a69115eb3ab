"""Load tests read figures that a gateway shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = set(re.findall(r"^\| `(microturn_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))


def test_every_name_is_in_the_table_or_begins_one_that_is() -> None:
    unknown = {
        f"{path.name}: {name}"
        for path in (ROOT / "loadtests").rglob("*.py")
        for name in re.findall(r"\bmicroturn_[a-z_]+", path.read_text())
        if not any(known == name or known.startswith(name) for known in TABLE)
    }
    assert len(TABLE) > 200 and not unknown
