"""Signatures are those of Standard Webhooks, and weak secrets stop the start."""

from __future__ import annotations

import base64

import pytest

from gateway.config import load
from gateway.events.records import KINDS, id_of
from gateway.events.signing import headers, key_of
from tests.gateway.events.support import SECRET

GOOD = {"url": "https://crm.example/hook", "secret": SECRET}


def test_a_signature_is_that_of_the_specification() -> None:
    key = key_of(SECRET, "secret")
    body = b'{"test": 2432232314}'
    told = headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert told == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265331, body) != told


def test_ids_tell_what_happened_and_nothing_else() -> None:
    ids = {
        id_of(kind, call, began, what)
        for kind in KINDS
        for call in "ab"
        for began in (1, 2)
        for what in ("", "x")
    }
    assert len(ids) == len(KINDS) * 8 and id_of("call.ended", "a", 1) == id_of("call.ended", "a", 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"secret": "changeme"}, "expected whsec_"),
        ({"secret": "whsec_not base64"}, "expected whsec_"),
        ({"secret": "whsec_" + base64.b64encode(b"short").decode()}, "give 24 or more"),
        ({"secret": "whsec_" + base64.b64encode(bytes(32)).decode()}, "easily guessed"),
        ({"url": "http://crm.example/hook"}, "https alone"),
        ({"url": "ftp://crm.example/"}, "expected https://"),
        ({"url": "https://anna:secret@crm.example/"}, "without a password"),
        ({"url": "https://"}, "expected https://"),
        ({"events": ["call.begun"]}, "expected some of call.started"),
        ({"tenant": "acme"}, "not among the tenants"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_meant_stops_the_start_and_no_secret_is_told(
    changes: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told) as wrong:
        load(webhooks={"crm": GOOD | changes})
    assert "MfKQ9r8G" not in str(wrong.value) and "changeme" not in str(wrong.value)


def test_names_and_the_state_of_calls_are_checked_too() -> None:
    assert load(webhooks={"crm": GOOD}).webhooks["crm"].wants("call.ended", "")
    assert load(webhooks={"crm": GOOD | {"url": "http://localhost:9/"}})
    with pytest.raises(ValueError, match="small letters"):
        load(webhooks={"C R M": GOOD})
    with pytest.raises(ValueError, match="nothing is known of calls"):
        load(webhooks={"crm": GOOD}, redis="off")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"jwt_secret": "a" * 40}, "different bytes"),
        ({"jwt_secret": "short"}, "32 or more"),
        ({"api": "on", "http_host": "192.0.2.1", "webrtc_calls": 0}, "anyone there could end"),
    ],
)
def test_weak_tokens_stop_the_start(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load(**settings)


def test_programs_are_served_where_it_is_safe() -> None:
    assert load().serves_api and load(api="on").serves_api and not load(api="off").serves_api
    assert not load(http_host="192.0.2.1", webrtc_calls=0).serves_api
    assert load(http_host="192.0.2.1", webrtc_calls=0, jwt_secret="0123456789abcdef" * 2).serves_api
