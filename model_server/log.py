"""Lines of a model server's processes, for people or as JSON; calls by the names that workers give them, which are
nobody's Call-IDs."""

from __future__ import annotations

import logging
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from media.log_lines import LogLines

Format = Literal["text", "json"]


def set_up_logging(level: str = "info", format: Format = "text") -> None:
    """On standard error, from `level` up."""

    def named(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["process"] = "model-server"  # not by a context variable: threads have contexts of their own
        return event

    processors: list[Processor] = structlog.get_config()["processors"]  # for people
    if format == "json":
        processors = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    lines = LogLines()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, lines)),
        processors=[named, lines.tell_lost, *processors],
    )
