"""Rows to a page: Markdown beside the rows, HTML with its plots inside, the README's summary."""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests import report
from loadtests.page.parts import PARTS, Line, Part
from loadtests.page.rows import Row, newest, newest_run, value

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- figures of loadtests page: begin -->", "<!-- end -->"
_IMAGE = re.compile(r'<img src="([^":]+)"')
STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}img{max-width:100%}code{background:#f3f3f3}"
)


def main(argv: Sequence[str]) -> int:
    """0 when it is written, or with `--check` up to date; 1 when it is not; 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m loadtests page", description=__doc__)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--html", type=Path, help="write this file, too, with all plots inside")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 where the pages are of other rows"
    )
    given = parser.parse_args(argv)
    page, pages = markdown(given.results), given.results / "README.md"
    try:
        readme = with_summary(given.readme.read_text(), summary(given.results))
    except (OSError, ValueError) as wrong:
        print(f"loadtests page: {given.readme}: {wrong}", file=sys.stderr)
        return 2
    if given.check:
        old = [file for file, text in ((pages, page), (given.readme, readme)) if _text(file) != text]
        for file in old:
            print(f"loadtests page: {file} is of other rows: make report", file=sys.stderr)
        return int(bool(old))
    pages.write_text(page)
    given.readme.write_text(readme)
    if given.html is not None:
        given.html.write_text(html(page, given.results))
    print(
        f"{pages}: {len(PARTS)} parts, {sum('No row yet' in line for line in page.splitlines())} without a row"
    )
    return 0


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def markdown(results: Path) -> str:
    """The whole page."""
    lines = [
        "# Results",
        "",
        "Made by `make report` from the newest rows of the CSV files here; each part names the command that makes",
        "its row again. Absolute times belong to the machine of the row: ratios last.",
    ]
    for part in PARTS:
        lines += ["", f"## {part.title}", "", *_part(part, results)]
    return "\n".join(lines) + "\n"


def _part(part: Part, results: Path) -> Iterator[str]:
    if part.about:
        yield from (part.about, "")
    rows = (
        newest_run(results / part.file, part.fits) if part.key else [newest(results / part.file, part.fits)]
    )
    kept = [row for row in rows if row is not None]
    if not kept:
        yield f"No row yet: `{part.command}`"
        return
    yield from _side_by_side(part, kept) if part.key else _below_each_other(part, kept[0])
    yield ""
    yield _source(part, kept[0])
    if part.plot and (results / part.plot).exists():
        yield from ("", f"![{part.title}]({part.plot})")


def _below_each_other(part: Part, row: Row) -> Iterator[str]:
    columns = ["", "microturn"]
    columns += [part.beside or "beside"] * any(line.beside for line in part.lines)
    columns += ["limit"] * any(line.limit for line in part.lines)
    yield _table_row(columns)
    yield _table_row(["---"] * len(columns))
    for line in part.lines:
        cells = [line.what, told(line, row)]
        if any(one.beside for one in part.lines):
            cells.append(told(line, row, line.beside) if line.beside else "")
        if any(one.limit for one in part.lines):
            cells.append(line.limit)
        yield _table_row(cells)


def _side_by_side(part: Part, rows: Sequence[Row]) -> Iterator[str]:
    yield _table_row([part.key, *(line.what for line in part.lines)])
    yield _table_row(["---"] * (1 + len(part.lines)))
    for row in rows:
        yield _table_row([row[part.key], *(told(line, row) for line in part.lines)])


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _source(part: Part, row: Row) -> str:
    command = row.get("command") or part.command
    where = ", ".join(row[name] for name in ("machine", "commit") if row.get(name))
    return f"{row['date']}{', ' + where if where else ''}: `{command}`, row in [{part.file}]({part.file})"


def told(line: Line, row: Row, column: str = "") -> str:
    """A number as it is shown; empty where the row has none."""
    found = value(row, column or line.column)
    if found is None:
        return ""
    return line.form.format(found) if isinstance(found, float) else found


def summary(results: Path) -> list[str]:
    """The README's table: what, microturn, beside it."""
    lines = [_table_row(["", "microturn", "beside it"]), _table_row(["---"] * 3)]
    for part in PARTS:
        chosen = [line for line in part.lines if line.summary]
        if part.key and chosen:
            lines += _summary_of_run(part, chosen, newest_run(results / part.file, part.fits))
            continue
        row = newest(results / part.file, part.fits) if chosen else None
        for line in chosen if row is not None else ():
            assert row is not None
            beside = told(line, row, line.beside) if line.beside else ""
            shown = f"{beside} {part.beside}".strip() if beside else line.limit and f"limit {line.limit}"
            lines.append(_table_row([line.summary, told(line, row), shown]))
    return lines


def _summary_of_run(part: Part, chosen: Sequence[Line], rows: Sequence[Row]) -> Iterator[str]:
    """Ours of each kind, and all others of that kind beside it."""
    kinds = dict.fromkeys(row[part.key].partition("/")[0] for row in rows)
    for kind in kinds:
        of_kind = {
            row[part.key].partition("/")[2]: row for row in rows if row[part.key].startswith(f"{kind}/")
        }
        ours = of_kind.pop("microturn", None)
        for line in chosen if ours is not None else ():
            assert ours is not None
            others = ", ".join(f"{name} {told(line, row)}" for name, row in of_kind.items())
            calls = {"sip": "telephone calls", "webrtc": "browser calls"}[kind]
            yield _table_row([f"{calls}: {line.summary}", told(line, ours), others])


def with_summary(readme: str, lines: Sequence[str]) -> str:
    """The README with these lines between its two marks. ValueError where they are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the marks {BEGIN} and {END}, each once")
    return "\n".join([before + begin, *lines, end + after])


def html(page: str, results: Path) -> str:
    """One file that needs no other."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(page)

    def inside(match: re.Match[str]) -> str:
        data = base64.b64encode((results / match[1]).read_bytes()).decode()
        return f'<img src="data:image/png;base64,{data}"'

    title = "microturn: results"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{_IMAGE.sub(inside, body)}</body></html>\n"
