"""The worker of `bench killed`, two servers and a kill, with a small network that says nothing of use."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.bench import killed  # noqa: E402
from model_server.bench.__main__ import DATA, main  # noqa: E402
from tests.model_server.engine.conftest import random_checkpoint  # noqa: E402

pytestmark = pytest.mark.processes

BEFORE_S, AFTER_S = 3.0, 15.0


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}: they are not part of this tree")
def test_every_call_is_answered_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killed, "KILLED_AT_S", BEFORE_S)
    monkeypatch.setattr(killed, "AFTER_S", AFTER_S)
    monkeypatch.setattr(killed, "SLOTS", 8)
    arguments = ["killed", "--calls", "3", "--checkpoint", str(random_checkpoint(tmp_path))]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["calls"] == result["admitted"] == len(result["gaps_s"]) == 3
    assert result["calls_lost"] == 0 and 0 < result["gap_s"]["max"] < 5
    turns_before = BEFORE_S * 5
    assert 3 * (turns_before - 2) <= result["turns_rebuilt"] <= 3 * (turns_before + 25)
    strings = sum(of["strings"] for of in result["answers"].values())
    assert strings >= 3, "the string that the kill fell into, of each call"
    with (tmp_path / "out" / "killed.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    assert (tmp_path / "out" / "killed-3.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "right"), [(["1", "2", "3"], 1.0), (["1", "3"], 0.667), ([], 0.0), (["4"] * 9, 0.0)]
)
def test_words_that_are_wrong_missing_or_too_many(words: list[str], right: float) -> None:
    assert killed._share([(words, ("1", "2", "3"))]) == right
