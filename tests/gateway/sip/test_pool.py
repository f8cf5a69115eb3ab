"""The pool promises what the library takes, and shares ports and calls out without overlap."""

from __future__ import annotations

import pytest

from gateway.config import GatewaySettings
from gateway.sip.pool import Library, plan_workers

WHEEL = Library(4, "2.15.1")
BUILT = Library(1024, "2.17")


def settings(**values: object) -> GatewaySettings:
    return GatewaySettings(**values)  # type: ignore[arg-type]


def test_the_wheel_gets_many_small_workers_and_promises_no_more() -> None:
    workers = plan_workers(settings(sip_calls=200, sip_max_workers=10), WHEEL)
    assert len(workers) == 10 and {w.endpoint.max_calls for w in workers} == {4}
    assert WHEEL.is_wheel and WHEEL.invite_spacing_ns > 0


def test_our_own_build_gets_a_hundred_calls_a_worker() -> None:
    workers = plan_workers(settings(sip_calls=200), BUILT)
    assert [(w.endpoint.rate_hz, w.endpoint.max_calls) for w in workers] == [
        (8_000, 98),
        (8_000, 98),
        (16_000, 4),
    ]
    assert BUILT.invite_spacing_ns == 0


def test_ports_and_names_do_not_overlap() -> None:
    workers = plan_workers(settings(sip_calls=64, sip_max_workers=16), WHEEL)
    taken: set[int] = set()
    for worker in workers:
        ports = set(range(worker.endpoint.rtp_port, worker.endpoint.rtp_port + worker.endpoint.rtp_ports))
        assert not ports & taken and len(ports) >= 4 * worker.endpoint.max_calls
        taken |= ports
    assert len({w.name for w in workers}) == len(workers)


def test_a_gateway_without_wideband_has_no_wideband_worker() -> None:
    workers = plan_workers(settings(sip_calls=8, sip_wideband_calls=0), WHEEL)
    assert {w.endpoint.rate_hz for w in workers} == {8_000} and len(workers) == 2


def test_sound_over_ipv6_needs_a_library_that_has_it() -> None:
    asked = settings(rtp_host6="2001:db8::1", sip_calls=4, disclosure="auto")
    with pytest.raises(
        ValueError, match="pjsua2 2.15.1, which is installed, was built without IPv6: `make pjsip`"
    ):
        plan_workers(asked, WHEEL)
    worker = plan_workers(asked, Library(1024, "2.17", ipv6=True))[0]
    assert worker.endpoint.rtp_host6 == "2001:db8::1"
    assert worker.announcements.disclosure, "it is beyond loopback"
    worker = plan_workers(settings(sip_calls=4), WHEEL)[0]
    assert not worker.endpoint.rtp_host6 and not worker.announcements.disclosure
