"""The names of pjsua2 that are no API and that `gateway/sip/pj` leans on: fails when an upgrade moves them."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pjsua2 as pj
import pytest

from gateway.sip.pj.call import SipCall
from media.chunker import Line


def test_a_call_can_be_destroyed_by_hand() -> None:
    assert callable(pj.Call.__swig_destroy__)


def test_the_library_tells_its_limit() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "gateway.sip.limit"], capture_output=True, text=True, timeout=60, check=True
    )
    told = json.loads(asked.stdout.splitlines()[-1])
    assert told["calls"] in (4, 1024) and told["version"].startswith("2.")


@pytest.mark.parametrize(("waiting_ms", "asked"), [(180, 20), (200, 3), (220, 3), (240, 20)])
def test_the_statistics_are_new_at_each_cut_that_finds_delay_or_too_little(
    waiting_ms: int, asked: int
) -> None:
    """Jitter of a second ago keeps delay that nobody needs: that made it 2.4 s, not 1.4, after 300 ms of jitter."""
    asks = 0

    def stat() -> SimpleNamespace:
        nonlocal asks
        asks += 1
        received = SimpleNamespace(jitterUsec=SimpleNamespace(last=1000 * asks), loss=0, dup=0)
        return SimpleNamespace(rtcp=SimpleNamespace(rxStat=received))

    call = SimpleNamespace(
        _cuts=0, _waiting_ms=waiting_ms, _stat=stat, _troubles=(0, 0, 0), _line=Line(0.0, 0, 0)
    )
    told = [SipCall.line(cast(SipCall, call)).jitter_ms for _ in range(20)]
    assert (asks, told[-1]) == (asked, asked)
