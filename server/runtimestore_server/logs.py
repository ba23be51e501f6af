"""Logging: one line an event on standard error, for people or for machines."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import structlog

from runtimestore_server.rpc.workarounds.log_filter import keep_callers_out_of_the_log

UNFORESEEN = "an unforeseen error; the server's log has the whole story"
"""All that a caller is told of an error that nobody foresaw; `frames` are for the log."""


def frames(error: BaseException) -> list[str]:
    """Where an error came from, without its text: drivers quote parameters in it, and those hold documents."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def configure(*, level: str, style: str) -> None:
    """Write events of `level` and above to standard error, as text or as JSON."""
    renderer: Any
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s [%(levelname)s] %(name)s %(message)s"
    )
    keep_callers_out_of_the_log()
