"""The names of pjsua2 that are no API and that `gateway/sip/pj` leans on: fails when an upgrade moves them."""

from __future__ import annotations

import json
import subprocess
import sys

import pjsua2 as pj

from gateway.sip.pj import port


def test_vectors_lie_in_memory_as_we_read_them() -> None:
    assert port.vectors_are_fast()


def test_slow_copies_are_the_same_copies() -> None:
    vector = pj.ByteVector()
    data = bytes(range(256)) + b"\0" * 64
    port._put_slowly(vector, data)
    assert port._get_slowly(vector) == port._get(vector) == data


def test_a_call_can_be_destroyed_by_hand() -> None:
    assert callable(pj.Call.__swig_destroy__)


def test_the_library_tells_its_limit() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "gateway.sip.limit"], capture_output=True, text=True, timeout=60, check=True
    )
    told = json.loads(asked.stdout.splitlines()[-1])
    assert told["calls"] in (4, 1024) and told["version"].startswith("2.")
