"""Engines by name. What an engine needs is looked for when it is made, not before."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from model_server.engine import Engine
from model_server.engine.echo import EchoEngine

BUILT = ("echo", "digits", "sglang", "moshi")
PLANNED = ("torch",)
CHECKPOINT = Path(__file__).resolve().parents[1] / "model" / "digits.safetensors"
"""The trained network that ships with the tree."""
NEEDED = ("torch", "safetensors")


def make_engine(
    name: str,
    persona: str = "",
    checkpoint: Path | None = None,
    passes: int | None = None,
    ranks: int = 1,
    products: str = "auto",
    slots: int = 1,
    weights: str = "",
    trunk: str = "auto",
    device: str = "cpu",
    sums: str = "auto",
) -> Engine:
    """The engine of that name; `ValueError` names the value, what is expected and what to do.

    `persona` is that of calls that name none (empty: the engine's own), `checkpoint` another than the shipped one,
    `passes` how many of the network a turn may take (None: as many as it was trained with), `ranks` over how many
    processes it is cut, `products` what its matrices are multiplied in (`ModelServerConfig`), `slots` how many
    calls there are at once at most, `weights` the folder or repository of `moshi`, `trunk` whose layers `sglang`
    has, `device` where the network of `digits` lies, `sums` how its ranks add.
    """
    if device != "cpu":
        _check_device(name, device, ranks)
    if name == "echo":
        if ranks > 1:
            raise ValueError(f"ranks = {ranks}: engine = 'echo' has no model to cut; expected 1")
        return EchoEngine()
    if name == "digits":
        if ranks > 1:
            return _ranked(persona, checkpoint or CHECKPOINT, passes, ranks, products, slots, device, sums)
        if device != "cpu":
            return _on_device(persona, checkpoint or CHECKPOINT, passes, products, slots, device)
        return _digits(persona, checkpoint or CHECKPOINT, passes, products)
    if name == "sglang":
        return _sglang(persona, checkpoint or CHECKPOINT, passes, ranks, products, slots, trunk)
    if name == "moshi":
        return _moshi(persona, weights, ranks, products, slots)
    if name in PLANNED:
        raise ValueError(f"engine = {name!r}: not built yet; expected {' or '.join(BUILT)}")
    raise ValueError(f"engine = {name!r}: there is no such engine; expected {' or '.join(BUILT)}")


def _check_device(name: str, device: str, ranks: int) -> None:
    if name != "digits":
        raise ValueError(
            f"device = {device!r} with engine = {name!r}: only digits lies where this says; leave it out, or take "
            "--engine digits"
        )
    if ranks > 1 and device != "cuda":
        raise ValueError(
            f"device = {device!r} with ranks = {ranks}: that is one GPU, and each rank takes one; "
            "set device to cuda, or ranks to 1"
        )


def _look_for(name: str, needed: Sequence[str], install: str, checkpoint: Path) -> None:
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"engine = {name!r}: {' and '.join(missing)} not installed; {install}, or take --engine echo"
        )
    if not checkpoint.is_file():
        raise ValueError(
            f"engine = {name!r}: no checkpoint {checkpoint}; train one (python -m model_server.training.train) and "
            "name it with --checkpoint, or take --engine echo"
        )


def _sglang(
    persona: str, checkpoint: Path, passes: int | None, ranks: int, products: str, slots: int, trunk: str
) -> Engine:
    if ranks > 1:
        raise ValueError(f"ranks = {ranks}: engine = 'sglang' divides by SGLang's own means; expected 1")
    install = "it has an environment of its own: make setup-sglang, then .venv-sglang/bin/microturn"
    _look_for("sglang", (*NEEDED, "sglang"), install, checkpoint)
    from model_server.engine import personas
    from model_server.engine.sglang.engine import SglangEngine
    from model_server.model.served.products import dtype_of

    persona = persona or personas.DEFAULT
    return SglangEngine(
        checkpoint, persona, calls=slots, products=dtype_of(products), passes=passes, trunk=trunk
    )


def _moshi(persona: str, weights: str, ranks: int, products: str, slots: int) -> Engine:
    if ranks > 1:
        raise ValueError(f"ranks = {ranks}: engine = 'moshi' runs on one device; expected 1")
    from model_server.engine.moshi.weights import check_packages, find

    check_packages()
    found = find(weights)
    from model_server.engine.moshi.engine import MoshiEngine

    return MoshiEngine(found, persona, calls=slots, products=products)


def _digits(persona: str, checkpoint: Path, passes: int | None, products: str) -> Engine:
    _look_for("digits", NEEDED, "pip install 'microturn[torch]'", checkpoint)
    from model_server.engine import personas

    persona = persona or personas.DEFAULT
    from model_server.engine.digits import DigitsEngine
    from model_server.model.served.products import dtype_of

    return DigitsEngine(checkpoint, persona, passes=passes, products=dtype_of(products))


def _ranked(
    persona: str,
    checkpoint: Path,
    passes: int | None,
    ranks: int,
    products: str,
    slots: int,
    device: str,
    sums: str,
) -> Engine:
    on_gpus = device != "cpu"
    if on_gpus:
        _look_for("digits", (*NEEDED, "triton"), "pip install 'microturn[torch,kernels]'", checkpoint)
    else:
        _look_for("digits", NEEDED, "pip install 'microturn[torch]'", checkpoint)
    from model_server.engine import personas
    from model_server.ranks.engine import EngineOptions
    from model_server.ranks.leader import RankedEngine

    persona = persona or personas.DEFAULT
    named = device if on_gpus else ""
    return RankedEngine(EngineOptions(checkpoint, persona, passes or 0, products, named, slots, sums), ranks)


def _on_device(
    persona: str, checkpoint: Path, passes: int | None, products: str, slots: int, device: str
) -> Engine:
    _look_for("digits", (*NEEDED, "triton"), "pip install 'microturn[torch,kernels]'", checkpoint)
    from model_server.engine import personas
    from model_server.engine.device import DeviceEngine
    from model_server.model.device.chosen import device_of
    from model_server.model.served.products import dtype_of

    found, dtype = device_of(device), None if products == "auto" else dtype_of(products)
    persona = persona or personas.DEFAULT
    return DeviceEngine(checkpoint, persona, device=found, calls=slots, products=dtype, passes=passes)
