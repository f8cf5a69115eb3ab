"""The mean of several networks is one of them all; what is not of one kind is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from model_server.model import checkpoint  # noqa: E402
from model_server.training.average import main, mean  # noqa: E402

SHIPPED = Path(checkpoint.__file__).parent / "digits.safetensors"


def test_all_but_the_head_is_averaged(tmp_path: Path) -> None:
    one = checkpoint.load(SHIPPED)
    other = replace(one, tensors={name: value * 3 for name, value in one.tensors.items()})
    found = mean([one, other])
    for name, value in found.tensors.items():
        factor = 1 if name.startswith("flow_head.") else 2
        assert value.dtype == one.tensors[name].dtype and torch.equal(value, one.tensors[name] * factor), name
    assert found.notes["averaged"] == 2


def test_a_file_is_written_that_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mean.safetensors"
    assert main([str(SHIPPED), str(SHIPPED), "--out", str(out)]) == 0
    before, after = checkpoint.load(SHIPPED), checkpoint.load(out)
    assert before.tensors.keys() == after.tensors.keys() and before.config == after.config
    assert all(torch.equal(value, after.tensors[name]) for name, value in before.tensors.items())


def test_other_networks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = checkpoint.load(SHIPPED)
    with pytest.raises(ValueError, match="another network"):
        mean([one, replace(one, tensors=dict(list(one.tensors.items())[1:]))])
    assert main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err
