"""Which engine `microturn up` takes, and why: the trained model where it can run, else the echo.

Nothing of the model server is loaded here: it is looked for, as an operator would.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("torch", "safetensors")


def choose(wanted: str) -> tuple[str, str]:
    """The engine for a setting, and the reason in words. `auto` is decided, anything else is taken as it is."""
    if wanted != "auto":
        return wanted, "as it was asked for"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return "echo", f"{' and '.join(missing)} not installed: pip install 'microturn[torch]' for the model"
    checkpoint = shipped_checkpoint()
    if not checkpoint.is_file():
        return "echo", f"no trained model in {checkpoint}"
    return "digits", "the trained model is here"


@dataclass(frozen=True, slots=True)
class Held:
    """Whether this machine can hold the weights of `moshi`."""

    can_start: bool
    good: bool
    """Nothing speaks against it, as far as can be seen without running it."""
    found: str
    advice: str


def ask_moshi(weights: str, slots: int | None) -> Held:
    """Of the model server, in a process of its own: nothing is started or loaded. `slots`: None is what fits."""
    argv = [sys.executable, "-m", "model_server.engine.moshi", f"--weights={weights}"]
    asked = subprocess.run(
        [*argv, *([f"--slots={slots}"] if slots is not None else [])],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    try:
        told = json.loads(asked.stdout.splitlines()[-1])
        return Held(bool(told["can_start"]), bool(told["good"]), str(told["found"]), str(told["advice"]))
    except (IndexError, ValueError, KeyError):
        reason = (asked.stderr.strip().splitlines() or ["no output"])[-1]
        return Held(False, False, f"engine = 'moshi': it cannot be looked at ({reason})", "make setup-moshi")


def shipped_checkpoint() -> Path:
    """Where the trained model lies in the tree."""
    package = importlib.util.find_spec("model_server")
    folder = Path(package.origin).parent if package is not None and package.origin else Path("model_server")
    return folder / "model" / "digits.safetensors"
