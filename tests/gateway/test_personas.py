"""Who was called, and which names may be given a persona."""

from __future__ import annotations

import pytest

from gateway.personas import MOST_PERSONA_LETTERS, called, check


@pytest.mark.parametrize(
    ("request_line", "user"),
    [
        ("INVITE sip:100@example.net SIP/2.0", "100"),
        ("INVITE sips:count@[::1]:5061;transport=tls SIP/2.0", "count"),
        ("INVITE sip:+4930123;phone-context=x@example.net SIP/2.0", "+4930123"),
        ("INVITE sip:100:secret@example.net SIP/2.0", "100"),
        ("INVITE sip:%31%30%30@example.net SIP/2.0", "100"),
        ("INVITE sip:example.net SIP/2.0", ""),
        ("INVITE tel:100 SIP/2.0", ""),
        ("INVITE sip:" + "9" * 300 + "@example.net SIP/2.0", ""),
        ("", ""),
    ],
)
def test_the_user_part_of_the_request_is_who_was_called(request_line: str, user: str) -> None:
    assert called(f"{request_line}\r\nVia: SIP/2.0/UDP [::1]\r\nTo: <sip:other@example.net>\r\n\r\n") == user


@pytest.mark.parametrize(
    ("name", "persona", "told"),
    [
        ("", "count", "1 to 64 letters"),
        ("a b", "count", "1 to 64 letters"),
        ("9" * 65, "count", "1 to 64 letters"),
        ("100", "", "expected words"),
        ("100", "count\n", "expected words"),
        ("100", "x" * (MOST_PERSONA_LETTERS + 1), "letters at most"),
    ],
)
def test_what_could_never_work_is_refused_at_the_start(name: str, persona: str, told: str) -> None:
    check({"good": "count"})
    with pytest.raises(ValueError, match=told):
        check({"good": "count", name: persona})
