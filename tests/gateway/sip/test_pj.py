"""The names of pjsua2 that are no API and that `gateway/sip/pj` leans on: fails when an upgrade moves them."""

from __future__ import annotations

import json
import subprocess
import sys

import pjsua2 as pj


def test_a_call_can_be_destroyed_by_hand() -> None:
    assert callable(pj.Call.__swig_destroy__)


def test_the_library_tells_its_limit() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "gateway.sip.limit"], capture_output=True, text=True, timeout=60, check=True
    )
    told = json.loads(asked.stdout.splitlines()[-1])
    assert told["calls"] in (4, 1024) and told["version"].startswith("2.")
