"""`gateway.probe` on a line that loses packets on the way to the gateway: its process, as a test has it started."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway.probe.command import run_probe
from tests.support.lossy_caller import lossy_caller

parser = argparse.ArgumentParser()
parser.add_argument("--loss", type=float, required=True)
parser.add_argument("--run-dir", type=Path, required=True)
parser.add_argument("--codec", required=True)
parser.add_argument("--realtime", action="store_true")
given = parser.parse_args()
line = lossy_caller(given.loss, seed=5)
sys.exit(run_probe("", given.run_dir, given.codec, as_json=True, realtime=given.realtime, caller=line))
