"""Which engine is taken, and why."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import engines
from gateway.engines import ask_moshi, choose, shipped_checkpoint


def test_what_was_asked_for_is_taken_as_it_is():
    assert choose("echo") == ("echo", "as it was asked for")
    assert choose("digits")[0] == "digits"


def test_without_torch_it_is_the_echo(monkeypatch):
    found = importlib.util.find_spec

    def without_torch(name: str):
        return None if name == "torch" else found(name)

    monkeypatch.setattr(engines.importlib.util, "find_spec", without_torch)
    engine, why = choose("auto")
    assert engine == "echo" and why.startswith("torch not installed: pip install")


@pytest.mark.parametrize("there", [True, False])
def test_with_torch_it_depends_on_the_trained_model(monkeypatch, tmp_path, there):
    pytest.importorskip("torch", reason="needs the extra: pip install 'microturn[torch]'")
    path = tmp_path / "digits.safetensors"
    if there:
        path.write_bytes(b"")
    monkeypatch.setattr(engines, "shipped_checkpoint", lambda: path)
    engine, why = choose("auto")
    assert engine == ("digits" if there else "echo")
    assert there or str(path) in why


def test_the_checkpoint_is_the_one_that_the_model_server_takes():
    from model_server.engine.registry import CHECKPOINT

    assert (
        shipped_checkpoint()
        == CHECKPOINT
        == Path(__file__).parents[2] / "model_server/model/digits.safetensors"
    )


def test_weights_that_are_not_here_are_looked_for_by_a_process_of_their_own(tmp_path):
    held = ask_moshi(str(tmp_path), 2)
    assert not held.can_start and not held.good
    told = (
        "make setup-moshi" if importlib.util.find_spec("moshi") is None else "download the whole repository"
    )
    assert told in held.found and held.advice


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--engine", "moshi"], "engine = 'moshi'"),
        (["--engine", "echo", "--weights", "somewhere"], "expected engine = 'moshi'"),
    ],
)
def test_nothing_is_started_with_weights_that_cannot_be(tmp_path, flags, told):
    tried = subprocess.run(
        [sys.executable, "-m", "gateway", "up", "--run-dir", str(tmp_path / "run"), *flags],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert tried.returncode == 2 and told in tried.stderr and tried.stdout == ""
    assert not (tmp_path / "run").exists()
