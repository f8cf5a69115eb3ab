"""Offers per address: bursts pass, floods do not, and the table cannot grow."""

from __future__ import annotations

from gateway.api.rate import OfferRate
from media.timebase import NS_PER_S


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    rate, now = OfferRate(10), 10**12
    assert [rate.wait_s("192.0.2.1", now) for _ in range(40)] == [0] * 40
    assert rate.wait_s("192.0.2.1", now) == 1
    assert rate.wait_s("192.0.2.2", now) == 0  # another address
    later = now + NS_PER_S
    assert [rate.wait_s("192.0.2.1", later) for _ in range(11)] == [0] * 10 + [1]


def test_a_slow_rate_says_how_long_to_wait() -> None:
    rate = OfferRate(1)
    assert [rate.wait_s("192.0.2.1", 0) for _ in range(5)] == [0, 0, 0, 0, 1]


def test_the_table_forgets_who_was_silent_longest() -> None:
    rate = OfferRate(1, most_addresses=3)
    for _ in range(5):
        rate.wait_s("192.0.2.9", 0)
    assert rate.wait_s("192.0.2.9", 0) > 0
    for n in range(3):
        rate.wait_s(f"192.0.2.{n}", 0)
    assert len(rate) == 3 and rate.wait_s("192.0.2.9", 0) == 0


def test_an_ipv6_caller_is_its_network() -> None:
    rate = OfferRate(1)
    for n in range(4):
        assert rate.wait_s(f"2001:db8::{n + 1}", 0) == 0
    assert rate.wait_s("2001:db8::ffff", 0) == 1 and rate.wait_s("2001:db8:0:1::1", 0) == 0
    assert rate.wait_s("::ffff:192.0.2.1", 0) == 0 and len(rate) == 3


def test_no_limit_keeps_nothing() -> None:
    rate = OfferRate(0)
    assert not any(rate.wait_s("192.0.2.1", 0) for _ in range(1000)) and len(rate) == 0
