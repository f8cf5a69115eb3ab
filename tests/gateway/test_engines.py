"""Which engine is taken, and why."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from gateway import engines
from gateway.engines import choose, shipped_checkpoint


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
