"""Where the log goes: a reader that is gone or stands still, or a full disk, costs lines and no calls.

What cannot be written at once is dropped and counted; the next line that can be written has the number, as
`lines_lost`. A pipe holds 64 kB for a reader that is slow for a while.
"""

from __future__ import annotations

import io
import select
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

_PIECE = 1024
"""Letters, 4,096 bytes at most: a pipe that has any room takes as many in one go (POSIX, PIPE_BUF)."""


class LogLines:
    """A text stream, as structlog's loggers write to it; of one process, whose threads take turns."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Standard error where none is named."""
        self._stream = sys.stderr if stream is None else stream
        self._lost = 0
        self._is_torn = False
        """The last line that was begun has no end."""
        self._room = select.poll()
        try:
            self._room.register(self._stream, select.POLLOUT)
            self._is_watched = True
        except (OSError, ValueError, io.UnsupportedOperation):  # in memory, or closed: it never stands still
            self._is_watched = False

    def write(self, text: str) -> int:
        """Never raises for what the stream does, and never waits for it."""
        whole = "\n" + text if self._is_torn else text
        try:
            for first in range(0, len(whole), _PIECE):
                if self._is_watched and not self._room.poll(0):
                    self._is_torn |= first > 0
                    self._lost += 1
                    return len(text)
                self._stream.write(whole[first : first + _PIECE])
                self._stream.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            self._lost += 1
        else:
            self._lost, self._is_torn = 0, False
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
