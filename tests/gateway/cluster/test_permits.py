"""What counts for which limit, and for how long."""

from __future__ import annotations

from gateway.cluster.permits import Permits

A, B = ("tenant:a", "trunk:t"), ("tenant:b",)


def test_calls_count_for_each_of_their_limits_until_they_are_given() -> None:
    permits = Permits()
    permits.hold("c1", A)
    permits.hold("c2", A)
    permits.hold("c3", B)
    permits.hold("c3", B)  # twice is once
    assert permits.held() == {"tenant:a": 2, "trunk:t": 2, "tenant:b": 1}
    assert permits.give("c3") and not permits.give("c3")
    assert permits.held() == {"tenant:a": 2, "trunk:t": 2} and len(permits) == 2
    permits.hold("c4", ())
    assert "c4" not in permits and not permits.give("c4")


def test_what_came_to_nothing_is_swept() -> None:
    permits = Permits()
    for number in range(5):
        permits.hold(f"c{number}", B)
    assert permits.sweep(lambda call: call in ("c1", "c3")) == 3
    assert permits.held() == {"tenant:b": 2}


def test_what_a_former_process_held_counts_until_its_calls_are_known() -> None:
    permits = Permits()
    permits.inherit({"tenant:a": 3, "trunk:t": 3, "tenant:gone": 0})
    assert permits.held() == {"tenant:a": 3, "trunk:t": 3}
    permits.hold("adopted", A, adopted=True)  # one of the three
    assert permits.held()["tenant:a"] == 3
    permits.hold("new", A)
    assert permits.held()["tenant:a"] == 4
    permits.settle()  # two of the three had ended meanwhile
    assert permits.held() == {"tenant:a": 2, "trunk:t": 2}
