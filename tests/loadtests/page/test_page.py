"""The page of results: numbers of rows and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests import report
from loadtests.page import command
from loadtests.page.parts import PARTS, Line, Part
from loadtests.page.rows import newest, newest_run, value

ROOT = Path(__file__).parents[3]
PART = Part(
    "Calls", "calls.csv", "python -m loadtests calls", lambda row: row["engine"] == "echo",
    (Line("CPU, %", "cpu", "{:.2f}", beside="peer.cpu", limit="1", summary="CPU"),),
    plot="calls.png", beside="a peer",
)  # fmt: skip
RUN = Part(
    "Peers", "peers.csv", "python -m loadtests peers", lambda row: True,
    (Line("calls a core", "calls_a_core", "{:.0f}", summary="calls a core"),), key="peer",
)  # fmt: skip


def rows(folder: Path) -> None:
    about = {"machine": "a machine", "commit": "abc", "command": "python -m loadtests calls --calls 1"}
    for date, engine, cpu in (("1", "echo", "0.1"), ("2", "echo", "0.2"), ("3", "digits", "0.3")):
        row = {"date": date, "engine": engine, "cpu": cpu, "peer.cpu": "2"}
        report.append_row(folder / "calls.csv", about | row)
    for date, peer, calls in (
        ("1", "sip/microturn", "1"),
        ("2", "sip/microturn", "300.4"),
        ("2", "sip/sipp", ""),
    ):
        report.append_row(folder / "peers.csv", about | {"date": date, "peer": peer, "calls_a_core": calls})


def test_the_newest_row_that_fits_and_all_of_a_run(tmp_path: Path) -> None:
    rows(tmp_path)
    row = newest(tmp_path / "calls.csv", PART.fits)
    assert row is not None and row["date"] == "2"
    assert [row["peer"] for row in newest_run(tmp_path / "peers.csv", RUN.fits)] == [
        "sip/microturn",
        "sip/sipp",
    ]
    assert newest(tmp_path / "none.csv", PART.fits) is None
    assert newest_run(tmp_path / "none.csv", PART.fits) == []


def test_values_of_columns() -> None:
    row = {
        "a": "3",
        "b": "2",
        "zero": "0",
        "word": "2.17",
        "text": "pass",
        "json": '{"p50": 1.5}',
        "list": "[4, 5]",
    }
    assert value(row, "a") == 3.0 and value(row, "text") == "pass" and value(row, "none") is None
    assert value(row, "json:p50") == 1.5 and value(row, "list:1") == 5.0 and value(row, "none:1") is None


def test_a_number_stands_with_its_peer_its_limit_and_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(tmp_path)
    (tmp_path / "calls.png").write_bytes(b"PNG")
    monkeypatch.setattr(command, "PARTS", (PART, RUN))
    page = command.markdown(tmp_path)
    assert "|  | microturn | a peer | limit |" in page and "| CPU, % | 0.20 | 2.00 | 1 |" in page
    assert "2, a machine, abc: `python -m loadtests calls --calls 1`, row in [calls.csv](calls.csv)" in page
    assert "| sip/microturn | 300 |\n| sip/sipp |  |" in page
    assert command.summary(tmp_path)[2:] == [
        "| CPU | 0.20 | 2.00 a peer |",
        "| telephone calls: calls a core | 300 | sipp  |",
    ]
    shown = command.html(page, tmp_path)
    assert '<img src="data:image/png;base64,UE5H"' in shown and "<td>0.20</td>" in shown


def test_what_has_no_row_yet_is_named_with_its_command(tmp_path: Path) -> None:
    page = command.markdown(tmp_path)
    assert page.count("No row yet: `python -m ") == len(PARTS)


def test_the_readme_has_the_table_between_two_marks() -> None:
    readme = f"before\n{command.BEGIN}\nold\n{command.END}\nafter"
    assert command.with_summary(readme, ["new"]) == f"before\n{command.BEGIN}\nnew\n{command.END}\nafter"
    with pytest.raises(ValueError, match="expected the marks"):
        command.with_summary("none", ["new"])


def test_page_and_readme_of_this_tree_are_of_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_of_other_rows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.txt"
    readme.write_text(f"{command.BEGIN}\n{command.END}\n")
    asked = ["--results", str(tmp_path), "--readme", str(readme)]
    assert command.main(asked) == 0 and command.main([*asked, "--check"]) == 0
    (tmp_path / "README.md").write_text("written by hand")
    assert (
        command.main([*asked, "--check"]) == 1 and "is of other rows: make report" in capsys.readouterr().err
    )
    assert command.main([*asked[:-1], str(tmp_path / "none")]) == 2


def test_every_command_of_the_page_is_one() -> None:
    from loadtests.__main__ import KINDS

    for part in PARTS:
        words = part.command.split()
        assert words[:2] == ["python", "-m"] and (words[2] != "loadtests" or words[3] in KINDS)
        assert (ROOT / part.plot).suffix in ("", ".png")
