"""`python -m loadtests.hostile`: the hostile traffic alone."""

from __future__ import annotations

import sys

from loadtests.hostile.command import main

if __name__ == "__main__":
    sys.exit(main())
