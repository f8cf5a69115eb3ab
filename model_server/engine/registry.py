"""Engines by name."""

from __future__ import annotations

from model_server.engine import Engine
from model_server.engine.echo import EchoEngine

BUILT = ("echo",)
PLANNED = ("torch", "sglang", "moshi")


def make_engine(name: str) -> Engine:
    """The engine of that name; `ValueError` names the value and what is expected."""
    if name == "echo":
        return EchoEngine()
    if name in PLANNED:
        raise ValueError(f"engine = {name!r}: not built yet; expected {' or '.join(BUILT)}")
    raise ValueError(f"engine = {name!r}: there is no such engine; expected {' or '.join(BUILT)}")
