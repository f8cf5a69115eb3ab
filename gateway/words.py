"""Settings that are lists of words."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic_settings import NoDecode

Words = Annotated[tuple[str, ...], NoDecode]
"""A list in the file; separated by commas in the environment and in a flag."""


def words(value: Any) -> Any:
    """A validator's first half: one string is a list of words."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value
