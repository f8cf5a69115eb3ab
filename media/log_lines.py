"""Where the log goes: a stream that nobody reads any more, or a full disk, costs lines and no calls.

What cannot be written is dropped and counted; the next line that can be written has the number, as `lines_lost`.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, TextIO


class LogLines:
    """A text stream, as structlog's loggers write to it; of one process, whose threads take turns."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Standard error where none is named."""
        self._stream = sys.stderr if stream is None else stream
        self._lost = 0

    def write(self, text: str) -> int:
        """Never raises for what the stream does."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            self._lost += 1
        else:
            self._lost = 0
        return len(text)

    def flush(self) -> None:
        """Done with each line."""

    def tell_lost(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A processor of structlog: how many lines before this one were lost, if any were."""
        if self._lost:
            event["lines_lost"] = self._lost
        return event
