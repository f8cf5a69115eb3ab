"""`python -m model_server.engine.moshi --weights PATH_OR_REPO`: whether this machine can hold it, as one JSON line.

Asked by `microturn doctor`, and by `microturn up` before anything is started. It loads neither torch nor weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from typing import Any

from model_server.engine.moshi import weights

VERSION = "0.2.13"
"""Of the package: what the engine leans on was read in it."""
LARGE_BYTES = 2_000_000_000
"""Weights beyond it no CPU reads within 80 ms."""


def look(path_or_repo: str, products: str, slots: int | None) -> dict[str, Any]:
    """`can_start`, `good` (calls will be answered in time, as far as memory says), `found` and `advice`."""
    try:
        weights.check_packages()
        model = weights.find(path_or_repo)
        where = weights.device()
        each = weights.element_bytes(products, where.is_gpu)
        calls = weights.fitting(model, where, each)
        told = weights.told(model, where, each)
        weights.check_fits(model, where, each, slots or 1)
    except ValueError as wrong:
        return {"can_start": False, "good": False, "found": str(wrong), "advice": "see docs/models.md, Moshi"}
    advice = []
    if (version := importlib.metadata.version("moshi")) != VERSION:
        advice.append(f"moshi {version}: the engine was tried with {VERSION}; make setup-moshi")
    if not where.is_gpu and model.bytes_of_both(each) > LARGE_BYTES:
        advice.append("without a GPU a step of this model takes seconds, and every reply is late")
    found = f"{told}: {calls} calls fit" if slots is None else f"{told}: {slots} calls asked for, {calls} fit"
    return {"can_start": True, "good": not advice, "found": found, "advice": "; ".join(advice)}


def main() -> None:
    """Prints what `look` finds."""
    parser = argparse.ArgumentParser(prog="python -m model_server.engine.moshi", description=__doc__)
    parser.add_argument("--weights", default="")
    parser.add_argument("--products", default="auto")
    parser.add_argument("--slots", type=int)
    given = parser.parse_args()
    print(json.dumps(look(given.weights, given.products, given.slots)))


if __name__ == "__main__":
    main()
