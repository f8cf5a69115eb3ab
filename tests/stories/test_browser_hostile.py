"""A few hundred of every bad input of browser calls, beside calls that must not hear of it.

`python -m loadtests faults --cases browser-hostile` is the same with thousands.
"""

from __future__ import annotations

import asyncio

import pytest

from loadtests.faults.browsers import Strength, strike_beside_calls

pytestmark = pytest.mark.processes

ONE_TURN_MS = 200
FEW = Strength(offers=100, datagrams=400, packets=400, streams=60, per_s=400.0, channels=80, slow=0)


def test_what_strangers_and_callers_send_is_refused_counted_and_not_heard_by_others() -> None:
    outcome = asyncio.run(strike_beside_calls(FEW, calls=2, seconds=6, attacks=1))
    broken = [text for text in outcome.broken if not text.startswith("gaps of")]
    assert not broken, outcome.line()
    assert outcome.figures["untouched"] == 2
    machine = outcome.figures["machine"]
    its_own = machine["gaps"] == machine["gaps_at_stalls"]  # then the machine stood still, not we
    assert outcome.figures["gap_ms_worst"] <= ONE_TURN_MS or its_own, outcome.line()
