"""Why nobody answered, in words that programs may go by."""

from __future__ import annotations

import pytest

from gateway.sip.call_events import why_of


@pytest.mark.parametrize(
    ("status", "reason", "why"),
    [
        (486, "Busy Here", "busy"), (603, "Decline", "rejected"), (404, "Not Found", "not-found"),
        (480, "", "no-answer"), (408, "no answer", "no-answer"), (408, "no ringing", "no-ringing"),
        (503, "no room", "no-room"), (503, "Service Unavailable", "unreachable"), (599, "", "unreachable"),
        (407, "", "forbidden"), (488, "", "not-acceptable"), (487, "", "cancelled"), (499, "", "failed"),
    ],
)  # fmt: skip
def test_a_final_status_in_a_word(status: int, reason: str, why: str) -> None:
    assert why_of(status, reason) == why
