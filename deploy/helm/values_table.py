"""Writes the table of values into the chart's README, from the remarks in its values.yaml.

python deploy/helm/values_table.py          writes it
python deploy/helm/values_table.py --check  status 1 where the README has another one
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHART = Path(__file__).resolve().parent / "microturn"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?: (?P<value>.*?))?(?:  # (?P<told>.*))?$")


class Row(NamedTuple):
    """One value."""

    key: str
    """With what it lies below: `gateway.sip.port`."""
    default: str
    """As it is written in YAML."""
    told: str
    """Empty where values.yaml says nothing of it."""


def rows(text: str) -> Iterator[Row]:
    """Every value of a values.yaml whose lists and tables are written in one line each."""
    above: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.match(line)
        if found is None:
            raise ValueError(f"{line!r}: expected KEY: VALUE  # what it is")
        del above[len(found["indent"]) // 2 :]
        above.append(found["key"])
        if found["value"] is not None:
            yield Row(".".join(above), found["value"], found["told"] or "")


def table(text: str) -> str:
    """In Markdown."""
    lines = ["| value | default | |", "|---|---|---|"]
    lines += [f"| `{row.key}` | `{row.default}` | {row.told.replace('|', '&#124;')} |" for row in rows(text)]
    return "\n".join(lines)


def with_table(readme: str, values: str) -> str:
    """The README as it should be."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{table(values)}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Exit status."""
    file = CHART / "README.md"
    is_now = file.read_text()
    wanted = with_table(is_now, (CHART / "values.yaml").read_text())
    if arguments == ["--check"]:
        return 0 if is_now == wanted else 1
    file.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
