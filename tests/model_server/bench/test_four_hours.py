"""Young and old calls of a small network side by side, and what is said to hold of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.bench import four_hours  # noqa: E402
from model_server.bench.__main__ import DATA, main  # noqa: E402
from tests.model_server.engine.conftest import random_checkpoint  # noqa: E402


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}: they are not part of this tree")
@pytest.mark.parametrize(
    ("more", "heard"),
    [([], "aged"), pytest.param(["--whole", "--hours", "0.02"], "whole", marks=pytest.mark.long)],
)
def test_a_minute_now_and_after_hours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], heard: str
) -> None:
    arguments = [
        "four-hours",
        "--calls",
        "2",
        "--minute",
        "20",
        "--checkpoint",
        str(random_checkpoint(tmp_path)),
    ]
    assert main([*arguments, *more, "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["heard"] == heard and result["strings"] >= 2
    assert result["steps"] == 100, "turns of a third of a minute"
    least, most = result["kept_bytes_a_call"]
    assert least == most > 0
    assert set(result["holds"]) == {"memory", "step_time", "answers"}
    assert result["step_grew_quartiles"][0] <= result["step_grew"] <= result["step_grew_quartiles"][1]
    with (tmp_path / "four-hours.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    assert (tmp_path / "four-hours.png").stat().st_size > 1000


def test_what_is_disturbed_now_and_then_does_not_count_and_what_grew_does() -> None:
    rng = np.random.default_rng(1)
    usual_ms = rng.uniform(10, 30, 200)  # turns differ, and the two of one turn are alike
    young_ms, old_ms = (usual_ms * rng.normal(1, 0.02, 200) for _ in range(2))
    old_ms[rng.random(200) < 0.2] *= 3  # the machine was busy
    steady = four_hours._result(young_ms, old_ms, [], [], [7, 7], [100.0, 101.0, 101.5])
    assert abs(steady["step_grew"]) < 0.02 and all(steady["holds"].values())
    slower = four_hours._result(young_ms, 1.08 * old_ms, [], [], [7, 8], [100.0, 101.0, 110.0])
    assert slower["holds"] == {"memory": False, "step_time": False, "answers": True}
