"""Compiles what each Triton form names in `BUILDS`, for some architectures: a JSON line for each of both."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path

import turn_kernels
from turn_kernels.builds import compile_ahead


def main(architectures: list[str]) -> None:
    for form in sorted(Path(turn_kernels.__path__[0]).glob("*/triton_form.py")):
        builds = importlib.import_module(f"turn_kernels.{form.parent.name}.triton_form").BUILDS
        for build, architecture in itertools.product(builds, architectures):
            compiled = compile_ahead(build, architecture)
            row = {
                "op": form.parent.name,
                "name": build.name,
                "architecture": architecture,
                "cubin_bytes": len(compiled.cubin) if compiled.cubin.startswith(b"\x7fELF") else 0,
                "shared_bytes": compiled.shared_bytes,
                "target": next(x for x in compiled.ptx.splitlines() if x.startswith(".target")).split()[1],
                "missing": [wanted for wanted in build.instructions if wanted not in compiled.ptx],
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
