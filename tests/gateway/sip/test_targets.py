# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom callers may be transferred to, and what a Refer-To asks for."""

import pytest

from gateway.sip.header import BadMessage, Header
from gateway.sip.targets import Target, Targets, target_of


def target(*values: bytes) -> Target:
    return target_of([Header.make(b"Refer-To", value) for value in values])


@pytest.mark.parametrize(
    ("value", "uri", "host", "port", "transport"),
    [
        (b"<sip:bob@PBX.example.net>", b"sip:bob@PBX.example.net", "pbx.example.net", 5060, "udp"),
        (b"sip:bob@192.0.2.7:5070", b"sip:bob@192.0.2.7:5070", "192.0.2.7", 5070, "udp"),
        (b'"B, <sip:x@y>" <sip:b@h.;transport=TCP>;a=b', b"sip:b@h.;transport=TCP", "h", 5060, "tcp"),
        (b"<sip:[2001:DB8::0:7]:5062>", b"sip:[2001:DB8::0:7]:5062", "2001:db8::7", 5062, "udp"),
        (b"<sip:+49;x=y@h;method=INVITE;user=phone>", b"sip:+49;x=y@h;user=phone", "h", 5060, "udp"),
    ],
)
def test_target_of_a_refer(value: bytes, uri: bytes, host: str, port: int, transport: str) -> None:
    found = target(value)
    assert (found.uri, found.host, found.port, found.transport) == (uri, host, port, transport)


@pytest.mark.parametrize(
    "values", [(), (b"<sip:a@b>", b"<sip:c@d>"), (b"<sip:a@b>, <sip:c@d>",), (b"<a b>",)]
)
def test_refer_without_exactly_one_target_is_400(values: tuple[bytes, ...]) -> None:
    with pytest.raises(BadMessage) as bad:
        target(*values)
    assert bad.value.status == 400


@pytest.mark.parametrize(
    "value",
    [
        b"<sips:a@b>", b"<tel:+4930>", b"<http://a>", b"<sip:a@b;method=BYE>", b"<sip:a@b;transport=tls>",
        b"<sip:a@b?Replaces=c%3Bto-tag%3Dd>", b"<sip:a@evil;x=@b>", b"<sip:a@b;maddr=192.0.2.1>", b"<sip:a@b:0>",
        b"<sip:a@b:99999>", b"<sip:a@b;transport=udp;transport=tcp>", b"<sip:a@b;lr>", b"<sip:a@>",
    ],
)  # fmt: skip
def test_what_we_do_not_dial_is_403(value: bytes) -> None:
    with pytest.raises(BadMessage) as bad:
        target(value)
    assert bad.value.status == 403


def test_only_listed_hosts_and_ports_are_allowed() -> None:
    targets = Targets(["PBX.example.net", "192.0.2.7:5070", "*.branch.example", "[2001:db8::0:1]"])
    allowed = [
        b"sip:a@pbx.example.net:9",
        b"sip:a@192.0.2.7:5070",
        b"sip:a@x.y.branch.example",
        b"sip:[2001:db8::1]",
    ]
    assert all(targets.allows(target(b"<%b>" % uri)) for uri in allowed)
    refused = [
        b"sip:a@192.0.2.7",
        b"sip:a@branch.example",
        b"sip:a@evilbranch.example",
        b"sip:pbx.example.net@evil",
    ]
    assert not any(targets.allows(target(b"<%b>" % uri)) for uri in refused)
    assert targets and not Targets([])


@pytest.mark.parametrize(
    "pattern", ["", "*", "*.", "a b", "a:0", "a:70000", "sip:a", "a/8", "*x.example", "a,b"]
)
def test_pattern_that_is_none_is_refused_in_words(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no target: give HOST"):
        Targets([pattern])
