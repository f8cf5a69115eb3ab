"""Engines beside the usual one, by name: what an operator may write, and where the model server of each is met.

    [engines.moshi]           [engines.lab]
    engine = "moshi"          socket = "/run/lab/model.sock"
    weights = "..."

Each has a model server of its own, which `microturn up` starts (`engine`) or somebody else runs (`socket`). A rule,
or who asks for a call, names it; "" is everywhere the usual one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings

from gateway.personas import check_persona

Engine = Literal["auto", "echo", "digits", "sglang", "moshi"]
MOST_ENGINES: Final = 8
"""Each has a turn clock in every worker, and series of its own."""
MOST_PATH_BYTES: Final = 107 - len(".next")
"""sockaddr_un has 108 bytes, the last one 0; a live upgrade serves beside it under this ending."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_OF_STARTED: Final = ("weights", "checkpoint", "ranks", "slots", "spare")


class FurtherEngine(BaseModel):
    """One of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Engine | None = None
    """What `microturn up` starts."""
    socket: str = ""
    """Control socket of a model server that somebody else runs."""
    persona: str = ""
    """What the model is to be where neither rule nor request says it; empty is the model server's own. The setting
    `persona` is of the usual engine: another one might not know it."""
    weights: str = ""
    """Of `moshi`."""
    checkpoint: str = ""
    """Of `digits` and `sglang`; empty is the one that ships with the tree."""
    ranks: int | None = Field(None, ge=1, le=8)
    """Processes that the model is cut over."""
    slots: int | None = Field(None, ge=1, le=4096)
    """Calls that it can hold; None is the setting `slots`, or, of `moshi`, what its device has memory for."""
    spare: bool = False
    """Whether a second one is kept warm."""


class FurtherEngineSettings(BaseSettings):
    """`gateway.config.GatewaySettings` has these fields, too."""

    engines: dict[str, FurtherEngine] = Field(
        default_factory=dict,
        description="further engines by name, beside the usual one: engine (what `microturn up` starts) or socket "
        "(of a model server that somebody else runs here), persona, weights, checkpoint, ranks, slots, spare",
    )

    def engine_sockets(self, usual: Path) -> dict[str, Path]:
        """Where each is met, the usual one, "", first."""
        further = {
            name: Path(engine.socket) if engine.socket else usual.with_name(f"model-{name}.sock")
            for name, engine in self.engines.items()
        }
        return {"": usual, **further}

    @property
    def engine_personas(self) -> dict[str, str]:
        """What each further one is to be where nobody says it."""
        return {name: engine.persona for name, engine in self.engines.items()}

    def check_engines(self, usual: Path) -> None:
        """`ValueError` in words for the operator."""
        if len(self.engines) > MOST_ENGINES:
            raise ValueError(f"engines has {len(self.engines)} entries: {MOST_ENGINES} at most")
        for name, engine in self.engines.items():
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"engines has {name!r}: a name has 1 to 32 small letters, digits and -, such as [engines.moshi]"
                )
            _check(f"engines.{name}", engine)
        places: dict[Path, str] = {}
        for name, path in self.engine_sockets(usual).items():
            if len(os.fsencode(path)) > MOST_PATH_BYTES:
                raise ValueError(
                    f"engines.{name}: the socket {path} has more than {MOST_PATH_BYTES} bytes: choose a shorter "
                    "run_dir or socket"
                )
            if (other := places.setdefault(path, name)) != name:
                told = f"engines.{other}" if other else "the usual engine"
                raise ValueError(f"engines.{name}: {told} has the same socket {path}: give each its own")


def check_engine(name: str, engines: Mapping[str, object], where: str) -> None:
    """`ValueError` for one that there is not, with those that there are."""
    if name and name not in engines:
        there = ", ".join(engines) or "none beside the usual one"
        raise ValueError(
            f"{where} = {name!r} is not among the engines ({there}): add [engines.{name}], or leave it out for the "
            "usual one"
        )


def _check(where: str, engine: FurtherEngine) -> None:
    if (engine.engine is not None) == bool(engine.socket):
        raise ValueError(
            f"{where}: expected engine (what `microturn up` starts, such as 'echo') or socket (of a model server "
            "that runs already), one of the two"
        )
    if engine.socket:
        if not Path(engine.socket).is_absolute():
            raise ValueError(f"{where}: socket = {engine.socket!r}: expected an absolute path")
        for name in _OF_STARTED:
            if getattr(engine, name):
                raise ValueError(f"{where}: {name} with socket: whoever runs that model server sets it there")
    if (engine.engine == "moshi") != bool(engine.weights):
        raise ValueError(
            f"{where}: weights = {engine.weights!r} with engine = {engine.engine!r}: moshi needs its weights, and "
            "nothing else has any"
        )
    if engine.checkpoint and engine.engine not in ("digits", "sglang"):
        raise ValueError(
            f"{where}: checkpoint = {engine.checkpoint!r} with engine = {engine.engine!r}: only digits and sglang "
            "have one"
        )
    if engine.ranks and engine.ranks > 1 and engine.engine != "digits":
        raise ValueError(
            f"{where}: ranks = {engine.ranks} with engine = {engine.engine!r}: only digits is cut over processes"
        )
    if engine.persona:
        check_persona(engine.persona, f"{where}: persona")
