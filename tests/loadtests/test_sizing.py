"""What calls take is reckoned from kept rows; the figures of the docs are those of the command."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest

from loadtests.sizing import FILL, Plan, main, per_call, reckon

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_docs_say_what_the_command_says() -> None:
    rows = re.findall(
        r"^\| `--telephone (\d+) --browser (\d+) --camera (\d+) --recorded (\d+)` \| (.*) \|$",
        DOCS.read_text(),
        re.MULTILINE,
    )
    assert len(rows) >= 3
    for *counts, said in rows:
        plan = Plan(*map(int, counts))
        found = reckon(plan)
        cells = [cell.strip() for cell in said.split("|")]
        assert cells == [
            str(found["cores_in_all"]),
            str(found["gateways"]),
            str(round(sum(found["mb"].values()))),
            f"{found['mbit_s']['in']} / {found['mbit_s']['out']}",
        ]


def test_parts_add_up() -> None:
    a_call = per_call(Plan(0, 0, 0, 0).results)
    one = reckon(Plan(200, 100, 40, 300))
    assert one["cores"]["sip"] == pytest.approx(200 * a_call["telephone_cpu_percent"] / 100 / FILL, abs=0.01)
    assert one["cores_in_all"] == math.ceil(sum(one["cores"].values()) - 0.02)
    assert one["gateways"] == math.ceil(300 / a_call["model_calls_a_core"])
    full = reckon(Plan(200, 100, 40, 300, fill=1.0))
    assert full["cores"]["sip"] < one["cores"]["sip"] and full["cores"]["model"] == one["cores"]["model"]
    assert one["mbit_s"]["in"] - one["mbit_s"]["out"] == pytest.approx(40 * 0.2, abs=0.1)


def test_the_dearest_of_the_last_rows_counts(tmp_path: Path) -> None:
    here = Plan(0, 0, 0, 0).results
    for path in here.glob("*.csv"):
        (tmp_path / path.name).write_text(path.read_text())
    before = per_call(tmp_path)
    with (here / "sip.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    dear = next(row for row in rows if "--target" not in row["command"] and int(row["calls"]) >= 100)
    dear |= {
        "cpu_percent_per_call.sip-worker": "9.0",
        "cpu_percent_per_call.gateway": "1.0",
        "rss_mb_per_call": "0",
    }
    with (tmp_path / "sip.csv").open("a", newline="") as file:
        csv.DictWriter(file, list(dear)).writerow(dear)
    assert per_call(tmp_path) == before | {"telephone_cpu_percent": 10.0}


def test_slips_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in {
        ("--telephone", "-1"): "--telephone is -1",
        ("--browser", "2", "--camera", "3"): "--camera is 3",
        ("--telephone", "2", "--recorded", "3"): "there are 2 calls",
        ("--fill", "0"): "--fill is 0.0",
    }.items():
        assert main(list(wrong)) == 2 and said in capsys.readouterr().err
    with pytest.raises(LookupError, match=r"sip\.csv is missing: run the load test sip first"):
        reckon(Plan(1, 0, 0, 0, results=tmp_path))
