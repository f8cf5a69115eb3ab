"""docs/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.catalogue import SECTIONS
from gateway.catalogue.family import Section

HEAD: Final = """\
# Metrics

Made from `gateway/catalogue/`: `python -m gateway.catalogue > docs/metrics.md`. Tests hold it against what runs.
Names follow Prometheus' conventions: base units, `_total` for counters, which begin at 0 with their process. The
gateway's `/metrics` has all of its workers, summed in its main process: a worker that is replaced takes nothing
along. It has the model server's as well, asked at each scrape. No label has a call, a number or a tenant in it, so
the number of series does not grow with calls. *When it is bad* is the page of
[operations](operations.md#incidents) to open.

Live calls have the E-model's MOS, by loss, jitter and delay. PESQ (P.862) compares what arrived with what was sent,
so it is measured by calls of our own with both ends of them: [probe calls](operations.md#probe-calls).
"""


def table(sections: Iterable[Section] = SECTIONS) -> str:
    """The page."""
    lines = [HEAD]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [section.about, ""] if section.about else []
        lines += ["| name | type | labels | unit | meaning | when it is bad |", "|---|---|---|---|---|---|"]
        for family in section.families:
            look = family.look or section.look
            page = f"[{look.replace('-', ' ')}](operations.md#{look})"
            cells = (f"`{family.name}`", family.kind, family.values, family.unit, family.help, page)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"
