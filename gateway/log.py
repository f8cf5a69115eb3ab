"""Logging of every process: readable lines on standard error, each naming its process.

A line and its end go out in one write: processes share the stream, and theirs would come between the two. Nothing
of a caller gets into it: what a SIP peer has named its call (with its host, often) is shown as the name that it is
kept under, and whom it wants to be transferred to is not shown.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.state.keys import is_name, name_of_telephone_call

NAMES_OF_CALLS = ("call", "to")
HIDDEN = ("target",)


def set_up_logging(process: str, level: str = "info") -> None:
    """Lines for people, from `level` (debug, info, warning, error) up."""
    structlog.contextvars.bind_contextvars(process=process)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            without_callers,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def without_callers(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A processor of structlog; see the head of this file."""
    for field in NAMES_OF_CALLS:
        named = event.get(field)
        if isinstance(named, str) and named and not is_name(named):
            event[field] = name_of_telephone_call(named)
    for field in HIDDEN:
        if field in event:
            event[field] = "(not shown)"
    return event
