"""A call of ours that costs money, at a running gateway: reserved, ended when that is spent, the next refused."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from gateway.cluster.settings import Tenant
from gateway.sip.trunks import Trunk
from tests.support.own_gateway import OwnGateway
from tests.support.referring_call import Target

pytestmark = pytest.mark.processes


def post(own: OwnGateway, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{own.gateway.http_port}/v1/calls", json.dumps(body).encode(),
        {"Content-Type": "application/json"}, method="POST",
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=5.0) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def test_a_call_ends_when_its_reserve_is_spent_and_no_other_begins() -> None:
    with Target() as target:
        trunk = Trunk(
            server=f"127.0.0.1:{target.port}", dial=("+",), prices={"+49": 0.6}, call_minutes=0.02,
            spend_day=0.02, tenant="acme",
        )  # fmt: skip
        tenants = {"acme": Tenant(dial=("+49", "+33"))}
        with OwnGateway.start(rtp_port=46_000, trunks={"pbx": trunk}, tenants=tenants) as own:
            assert post(own, {"to": "+1202", "trunk": "pbx"})[1]["code"] == "not-allowed"
            assert post(own, {"to": "+331", "trunk": "pbx"})[1]["code"] == "no-price"
            status, placed = post(own, {"to": "+4930", "trunk": "pbx"})
            assert status == 202, placed
            own.wait_for(lambda: "answered" in own.kinds(placed["id"]))
            began_s = time.monotonic()
            status, refused = post(own, {"to": "+4930", "trunk": "pbx"})
            assert (status, refused["code"]) == (402, "spend-cap"), refused
            assert "trunk:pbx may spend 0.02 a day" in refused["detail"]
            own.wait_for(lambda: "ended" in own.kinds(placed["id"]))
            assert 1.0 < time.monotonic() - began_s < 3.0
            own.wait_for(lambda: target.seen("BYE"))
            own.wait_for(lambda: own.gateway.cluster.spend.counters.settled == 1)
            counters = own.gateway.cluster.spend.counters
            assert (counters.reserved, counters.refused, counters.refused_unpriced) == (1, 1, 1)
            assert counters.charged_millionths == 12_000
