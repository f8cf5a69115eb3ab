"""JSON from elsewhere to a struct. Whatever the bytes are, `msgspec.DecodeError` is all that can come of them.

msgspec by itself has other words for some: `UnicodeDecodeError` for letters of a string that are no UTF-8,
`UnicodeEncodeError` for halves of surrogate pairs, `RecursionError` for brackets a thousand deep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def reader(decode: Callable[[Any], T]) -> Callable[[bytes | str], T]:
    """`msgspec.json.Decoder(...).decode`, with that one error."""

    def read(data: bytes | str) -> T:
        try:
            return decode(data)
        except (UnicodeError, RecursionError) as wrong:
            raise msgspec.DecodeError(str(wrong)) from None

    return read


def read_json(data: bytes | str, what: type[T]) -> T:
    """One of these, for what is read too seldom to keep a decoder; `msgspec.DecodeError` says why it is none."""
    return reader(msgspec.json.Decoder(what).decode)(data)
