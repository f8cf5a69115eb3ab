"""Logging of every process: one line an event on standard error, for people or as JSON, each naming its process.

A line and its end go out in one write: processes share the stream, and theirs would come between the two. Nothing
of a caller gets into it: what a SIP peer has named its call (with its host, often) is shown as the name that it is
kept under, whom it wants to be transferred to is not shown, and of an exception in a call not what it says, which
may be what somebody has said, but its type and where it was raised.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.state.keys import kept_name
from media.log_lines import LogLines

NAMES_OF_CALLS = ("call", "to", "by")
HIDDEN = ("target",)
OF_CALLS = ("call", "task")
"""Fields of lines about a call: what an exception says may be its caller's."""

Format = Literal["text", "json"]


def set_up_logging(process: str, level: str = "info", format: Format = "text") -> None:
    """From `level` (debug, info, warning, error) up; text is for people, json one object a line."""

    def named(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["process"] = process  # not by a context variable: threads have contexts of their own
        return event

    for_people: list[Processor] = [
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    for_programs: list[Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ]
    lines = LogLines()
    structlog.configure(
        processors=[
            named,
            lines.tell_lost,
            without_words,
            without_callers,
            structlog.processors.add_log_level,
            *(for_programs if format == "json" else for_people),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, lines)),
    )


def without_callers(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A processor of structlog; see the head of this file."""
    for field in NAMES_OF_CALLS:
        named = event.get(field)
        if isinstance(named, str) and named and (field != "by" or "@" in named):
            event[field] = kept_name(named)
    for field in HIDDEN:
        if field in event:
            event[field] = "(not shown)"
    return event


def without_words(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A processor of structlog: an exception as text; see the head of this file."""
    told = event.pop("exc_info", None)
    wrong = told if isinstance(told, BaseException) else sys.exc_info()[1] if told else None
    if wrong is None:
        return event
    lines = traceback.format_exception(wrong)
    if any(field in event for field in OF_CALLS):
        lines = [
            *traceback.format_tb(wrong.__traceback__),
            f"{type(wrong).__qualname__} (what it says is not shown)",
        ]
    event["exception"] = "".join(lines).rstrip()
    return event
