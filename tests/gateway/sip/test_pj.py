"""The names of pjsua2 that are no API and that `gateway/sip/pj.py` leans on: fails when an upgrade moves them."""

from __future__ import annotations

import json
import subprocess
import sys

from gateway.sip import pj


def test_vectors_lie_in_memory_as_we_read_them() -> None:
    assert pj._vectors_are_fast()


def test_slow_copies_are_the_same_copies() -> None:
    vector = pj.pj.ByteVector()
    data = bytes(range(256)) + b"\0" * 64
    pj._put_slowly(vector, data)
    assert pj._get_slowly(vector) == pj._get(vector) == data


def test_a_call_can_be_destroyed_by_hand() -> None:
    assert callable(pj.pj.Call.__swig_destroy__)


def test_the_library_tells_its_limit() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "gateway.sip.limit"], capture_output=True, text=True, timeout=60, check=True
    )
    told = json.loads(asked.stdout.splitlines()[-1])
    assert told["calls"] in (4, 1024) and told["version"].startswith("2.")
