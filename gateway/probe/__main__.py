"""`python -m gateway.probe`: as the main process starts it, without settings, which it does not need."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway.probe.command import run_probe

parser = argparse.ArgumentParser(prog="gateway.probe")
parser.add_argument("--run-dir", type=Path, required=True)
parser.add_argument("--codec", required=True)
parser.add_argument("--realtime", action="store_true")
given = parser.parse_args()
sys.exit(run_probe("", given.run_dir, given.codec, as_json=True, realtime=given.realtime))
