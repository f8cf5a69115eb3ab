"""Which engine `microturn up` takes, and why: the trained model where it can run, else the echo.

Nothing of the model server is loaded here: it is looked for, as an operator would.
"""

from __future__ import annotations

import importlib.util
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


def shipped_checkpoint() -> Path:
    """Where the trained model lies in the tree."""
    package = importlib.util.find_spec("model_server")
    folder = Path(package.origin).parent if package is not None and package.origin else Path("model_server")
    return folder / "model" / "digits.safetensors"
