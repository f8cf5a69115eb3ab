"""JSON from elsewhere: one error, whatever the bytes are."""

from __future__ import annotations

import msgspec
import pytest

from gateway.reading import read_json, reader


class Note(msgspec.Struct):
    text: str = ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b'{"text": "\xff"}',  # UnicodeDecodeError, if msgspec is asked
        '{"text": "\ud800"}',  # UnicodeEncodeError
        b'{"more": ' + 5_000 * b"[" + 5_000 * b"]" + b"}",  # RecursionError
        b'{"text": 1}',
    ],
)
def test_what_is_none_is_refused_with_one_error(data: bytes | str) -> None:
    for read in (reader(msgspec.json.Decoder(Note).decode), lambda given: read_json(given, Note)):
        with pytest.raises(msgspec.DecodeError):
            read(data)


def test_what_is_one_is_read() -> None:
    assert read_json(b'{"text": "\xc3\xa4", "more": [[]]}', Note) == Note("ä")


def test_a_wrong_type_is_told_apart() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.text"):
        read_json(b'{"text": 1}', Note)
