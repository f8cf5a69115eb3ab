"""An endpoint that is down for ten minutes gets every event afterwards, in order, once. Time is an argument."""

from __future__ import annotations

import random
from pathlib import Path

from gateway.events.outbox import MOST_PAUSE_S, SPREAD, Outbox
from gateway.events.records import encode
from gateway.events.spool import Spool
from tests.gateway.events.support import event, outbox, put, spool_at

DOWN_S = (100.0, 700.0)


def test_an_endpoint_that_is_down_for_ten_minutes_gets_everything_in_order_and_once(tmp_path: Path) -> None:
    dice = random.Random(7)
    happens = sorted(dice.uniform(0, 900) for _ in range(500))
    restarts = [250.0, 500.0]  # of the gateway, in the middle of the outage
    spool = spool_at(tmp_path)
    box = outbox(spool)
    got: list[tuple[float, str]] = []
    wrote: list[str] = []
    attempts, now_s = 0, 0.0
    while len(got) < len(happens):
        while len(wrote) < len(happens) and happens[len(wrote)] <= now_s:
            one = event(len(wrote), at_ms=round(1e3 * happens[len(wrote)]))
            put(spool, one)
            wrote.append(one.id)
        if restarts and now_s >= restarts[0]:
            restarts.pop(0)
            spool.close()
            spool = spool_at(tmp_path)
            box = outbox(spool)
        attempt = box.next(now_s, round(1e3 * now_s))
        if attempt is not None:
            attempts += 1
            if DOWN_S[0] <= now_s < DOWN_S[1]:
                box.refused(now_s, "ClientConnectorError")
            else:
                got.append((now_s, attempt.event.id))
                box.taken()
                now_s += 0.01
            continue
        due = [happens[len(wrote)]] if len(wrote) < len(happens) else []
        due += [box.wants_at_s] if box.wants_at_s is not None else []
        due += [at for at in restarts if at > now_s]
        now_s = max(now_s, min(due))
    assert [one for _, one in got] == wrote and len(set(wrote)) == 500
    first_s = min(at for at, _ in got if at >= DOWN_S[1])
    assert first_s - DOWN_S[1] <= MOST_PAUSE_S * (1 + SPREAD)
    assert attempts - 500 < 45  # it was not hammered
    assert box.next(now_s, 0) is None and not spool.waiting("crm") and not box.counters.given_up
    spool.close()


def test_pauses_double_and_an_endpoint_may_ask_for_longer_ones(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    put(spool, event(1))
    box, now_s, pauses = outbox(spool), 0.0, []
    for number in range(1, 12):
        attempt = box.next(now_s, 0)
        assert attempt is not None and attempt.number == number
        pauses.append(box.refused(now_s, "status 500"))
        assert box.next(now_s + pauses[-1] - 0.01, 0) is None
        now_s += pauses[-1]
    for number, pause_s in enumerate(pauses):
        wanted_s = min(MOST_PAUSE_S, 2.0**number)
        assert wanted_s * (1 - SPREAD) <= pause_s <= wanted_s * (1 + SPREAD)
    assert box.next(now_s, 0) is not None and box.refused(now_s, "status 429", 200.0) == 200.0
    assert box.next(now_s + 200.0, 0) is not None and box.refused(now_s, "status 429", 1e9) == 300.0
    spool.close()


def test_an_event_that_nobody_takes_is_given_up_in_the_end_and_the_next_one_goes(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    put(spool, event(1, at_ms=0), event(2, at_ms=100_000))
    box = outbox(spool, give_up_s=120)
    assert box.next(0.0, 500_000) is not None  # however old: it is tried once
    pause_s = box.refused(0.0, "status 400")
    attempt = box.next(pause_s, 200_000)
    assert attempt is not None and attempt.event.data == {"number": 2} and box.counters.given_up == 1
    box.taken()
    assert box.next(pause_s, 200_000) is None and box.counters.delivered == 1
    spool.close()


def test_an_endpoint_gets_what_it_asked_for_and_of_its_tenant_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, ("crm", "acme"))
    put(
        spool,
        event(1),
        event(2, "call.transcript"),
        event(3, tenant="acme"),
        event(4, "task.done", tenant="acme"),
    )
    spool.append(b"{}")
    spool.append(encode(event(5, "call.ended", tenant="rival")))

    def all_of(box: Outbox) -> list[int]:
        found = []
        while (attempt := box.next(0.0, 0)) is not None:
            found.append(attempt.event.data["number"])
            box.taken()
        return found

    usual = outbox(spool)
    assert all_of(usual) == [1, 3, 5] and usual.counters.unreadable == 1
    assert all_of(outbox(spool, "acme", tenant="acme", events=("task.*", "call.started"))) == [3, 4]
    spool.close()
