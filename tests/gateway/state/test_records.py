"""Records as they lie in Redis: what is none is refused with one error."""

from __future__ import annotations

import msgspec
import pytest

from gateway.state.records import Cdr, Session, decode, encode


def test_a_record_comes_back() -> None:
    session = Session("c", "sip", "node", "w0", 1, caller="ä")
    assert decode(Session, encode(session)) == session


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"call": "\xff"}', b'{"x": ' + 5_000 * b"[" + 5_000 * b"]" + b"}"]
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    for what in (Session, Cdr):
        with pytest.raises(msgspec.DecodeError):
            decode(what, data)
