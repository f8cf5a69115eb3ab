"""The order in which things are left out, and how they come back."""

from __future__ import annotations

from model_server.shedding import CALM_STEPS, RISE_STEPS, SEEN_STEPS, SPARE, Shed, Shedding

LIMIT_NS = 50_000


def after(shedding: Shedding, *steps_ns: int) -> Shed:
    for step_ns in steps_ns:
        shedding.observe(step_ns, LIMIT_NS)
    return shedding.level


def test_steps_in_time_leave_nothing_out():
    assert after(Shedding(), *[LIMIT_NS] * 10_000) is Shed.NOTHING


def test_one_stall_leaves_nothing_out():
    shedding = Shedding()
    for _ in range(50):
        assert after(shedding, *[10 * LIMIT_NS] * (RISE_STEPS - 1), *[1] * SEEN_STEPS) is Shed.NOTHING


def test_video_then_tokens_then_new_calls_and_no_further():
    shedding, seen = Shedding(), []
    for _ in range(6):
        for _ in range(RISE_STEPS):
            shedding.observe(2 * LIMIT_NS, LIMIT_NS)
        seen.append(shedding.level)
    assert seen == [Shed.VIDEO, Shed.TOKENS, *[Shed.NEW_CALLS] * 4]


def test_what_was_left_out_comes_back_in_the_opposite_order_after_calm():
    shedding = Shedding()
    after(shedding, *[2 * LIMIT_NS] * 2 * RISE_STEPS)
    assert shedding.level is Shed.TOKENS
    calm_ns = round(SPARE * LIMIT_NS)
    assert after(shedding, *[calm_ns] * (CALM_STEPS - 1)) is Shed.TOKENS
    assert after(shedding, calm_ns) is Shed.VIDEO
    assert after(shedding, *[calm_ns] * CALM_STEPS) is Shed.NOTHING


def test_steps_that_are_just_in_time_bring_nothing_back():
    shedding = Shedding()
    after(shedding, *[2 * LIMIT_NS] * RISE_STEPS)
    assert after(shedding, *[LIMIT_NS - 1] * 5 * CALM_STEPS) is Shed.VIDEO


def test_a_change_is_said_once():
    shedding = Shedding()
    assert [shedding.observe(2 * LIMIT_NS, LIMIT_NS) for _ in range(RISE_STEPS)] == [False] * (
        RISE_STEPS - 1
    ) + [True]
