"""Logging of every process: readable lines on standard error, each naming its process.

A line and its end go out in one write: processes share the stream, and theirs would come between the two.
"""

from __future__ import annotations

import logging
import sys

import structlog


def set_up_logging(process: str, level: str = "info") -> None:
    """Lines for people, from `level` (debug, info, warning, error) up."""
    structlog.contextvars.bind_contextvars(process=process)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
