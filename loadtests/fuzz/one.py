"""`python -m loadtests.fuzz.one TARGET [arguments of libFuzzer]`: one target, until its time is over or it breaks.

libFuzzer ends the process where a target breaks, so each has its own.
"""

from __future__ import annotations

import logging
import sys

from loadtests.fuzz.targets import TARGETS


def main(argv: list[str]) -> int:
    """Does not come back: libFuzzer ends the process."""
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["gateway", "media", "model_server"]):
        take = TARGETS[argv[1]].made()
    atheris.Setup([argv[0], *argv[2:]], take, enable_python_coverage=True)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
