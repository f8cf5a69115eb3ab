"""The E-model at points that are known."""

from __future__ import annotations

import pytest

from media.quality import burst_ratio, estimate_mos, mos_from_rating, rating


def test_clean_g711_is_the_best_that_the_narrowband_scale_gives() -> None:
    assert rating("PCMU", 0, 0) == pytest.approx(93.2)
    assert estimate_mos("PCMA", 0, 0) == pytest.approx(4.41, abs=0.005)


@pytest.mark.parametrize(("r", "mos"), [(90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58)])
def test_rating_to_mos_follows_table_b1_of_g107(r: float, mos: float) -> None:
    assert mos_from_rating(r) == pytest.approx(mos, abs=0.0075)


def test_mos_stays_in_range() -> None:
    assert mos_from_rating(-5) == 1.0
    assert mos_from_rating(3) == 1.0
    assert mos_from_rating(150) == 4.5
    assert 1.0 <= estimate_mos("PCMU", 5000, 100) <= 1.1


def test_delay_bends_at_177_ms() -> None:
    below = rating("PCMU", 100, 0) - rating("PCMU", 110, 0)
    above = rating("PCMU", 300, 0) - rating("PCMU", 310, 0)
    assert below == pytest.approx(0.24)
    assert above == pytest.approx(1.34)


def test_more_loss_and_burstier_loss_are_worse() -> None:
    scores = [estimate_mos("PCMU", 50, loss) for loss in (0, 1, 3, 5, 10, 20)]
    assert scores == sorted(scores, reverse=True)
    assert estimate_mos("PCMU", 50, 5, burst_ratio=3) < estimate_mos("PCMU", 50, 5)
    assert 93.2 - rating("PCMU", 0, 1) == pytest.approx(95 / 26.1)  # Ie,eff at 1 % random loss


def test_g722_and_unknown_codecs() -> None:
    assert estimate_mos("g722", 50, 0) == pytest.approx(estimate_mos("PCMU", 50, 0), abs=0.15)
    with pytest.raises(ValueError, match="PCMU"):
        estimate_mos("iLBC", 0, 0)


def test_burst_ratio() -> None:
    assert burst_ratio([False] * 10) == 1.0
    assert burst_ratio([]) == 1.0
    assert burst_ratio([True] * 10) == 1.0
    assert burst_ratio([True] * 5 + [False] * 95) == pytest.approx(5 * 0.95)
    assert burst_ratio([True, False] * 20) == 1.0
