"""A call's figures: means of its line, and what its turns have counted."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.figures import LineSums, Quality, figures_of
from gateway.state.prices import Prices
from gateway.turns import CallSums
from media.chunk import Flags, Reply
from media.chunker import Chunker
from media.leg import Leg
from media.timebase import TURN_SAMPLES
from tests.support.frame_store import FrameStore
from tests.support.two_doors import leg_of


def leg() -> Leg[Chunker]:
    return leg_of(Chunker(8_000, FrameStore()))  # type: ignore[return-value]


def test_a_clean_call_and_one_that_lost_a_tenth() -> None:
    line = LineSums("PCMU", packets=900, lost=100)
    for jitter_ms, delay_ms, trip_ms in ((2.0, 20.0, None), (4.0, 40.0, 80.0), (0.0, 0.0, 0.0)):
        line.note(jitter_ms, delay_ms, trip_ms)
    clean = figures_of(line, CallSums(turns=100, engine_us=1_234_567, memory="rolling 240"), leg(), 2)
    assert (clean.codec, clean.turns, clean.tasks, clean.engine_ms) == ("PCMU", 100, 2, 1_234)
    assert clean.memory == "rolling 240"
    assert (clean.packets, clean.lost_packets, clean.loss) == (900, 100, 0.1)
    assert (clean.jitter_ms, clean.jitter_max_ms, clean.delay_ms, clean.round_trip_ms) == (
        2.0,
        4.0,
        20.0,
        80.0,
    )
    assert clean.mos == pytest.approx(4.37, abs=0.02)  # G.711 at 60 ms
    worse = figures_of(line, CallSums(turns=100, concealed_samples=32_000), leg(), 0)
    assert worse.concealed_ms == 2_000 and worse.mos == pytest.approx(3.34, abs=0.02)
    assert figures_of(LineSums("SPEEX"), CallSums(turns=1), leg(), 0).mos == 0.0
    assert figures_of(LineSums(), CallSums(), leg(), 0) == type(clean)()


def test_the_model_that_falls_silent_in_the_middle_was_interrupted() -> None:
    here = leg()
    here.playout.start(0, 0)
    here.turn = 3
    loud = np.full(TURN_SAMPLES, 9_000, np.int16)
    here.receive_reply(Reply(1, 0, 0, loud))
    for _ in range(5):
        here.playout.pull()
    here.receive_reply(Reply(1, 1, 0, flags=Flags.FLUSH))
    for _ in range(15):
        here.playout.pull()
    here.receive_reply(Reply(1, 2, 0, flags=Flags.FLUSH))  # nothing was left to be cut
    told = figures_of(LineSums("PCMU"), CallSums(turns=3), here, 0)
    assert told.interruptions == 1 and 100 <= told.played_ms <= 400


def test_prices_are_of_minutes_and_of_the_engine() -> None:
    assert Prices(0.06, 2.0).cost(90_000, 500) == pytest.approx(0.09 + 1.0)
    assert Prices().cost(90_000, 500) == 0.0 and Prices(1.0).cost(-5, 0) == 0.0


def test_a_worker_tells_what_its_calls_lines_were_like() -> None:
    quality, line = Quality("telephone"), LineSums("PCMU", packets=980, lost=20)
    line.note(3.0, 30.0, None)
    quality.note(figures_of(LineSums(), CallSums(), leg(), 0))  # it never had a turn
    assert quality.report() == {}
    quality.note(figures_of(line, CallSums(turns=100, concealed_samples=3_200), leg(), 0))
    quality.note(
        figures_of(LineSums("SPEEX"), CallSums(turns=50), leg(), 0)
    )  # no packets, a codec without a MOS
    told = quality.report()
    assert (told["call_loss_telephone|4"], told["call_loss_telephone|sum"]) == (1, 20_000)
    assert (told["call_jitter_telephone|2"], told["call_jitter_telephone|sum"]) == (1, 3_000)
    assert (told["call_delay_telephone|2"], told["call_delay_telephone|0"]) == (1, 1)
    assert (told["call_concealed_telephone|3"], told["call_concealed_telephone|0"]) == (1, 1)
    assert (
        sum(count for name, count in told.items() if name.startswith("call_mos") and "sum" not in name) == 1
    )
    assert not any(name.startswith("call_loss") and told[name] > 1 for name in told if "sum" not in name)
