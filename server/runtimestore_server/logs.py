"""Logging: one line an event on standard error, for people or for machines. It never raises and never blocks.

A line is made and written by a thread of its own (`log_writer`); here it is said what goes into it. The lines of
libraries (gRPC's, asyncio's, warnings, errors that nobody caught) come the same way and look alike.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import structlog

from runtimestore_server.log_writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

UNFORESEEN = "an unforeseen error; the server's log has the rest"
"""All that a caller is told of an error that nobody foresaw; `frames` are for the log."""

LAST_LINES_SECONDS = 0.5
"""How long a command that ends waits for its last lines to be written: for no longer does a pipe hold it up that nobody
empties."""

MOST_CHARACTERS = 8192
"""What is longer in a line is cut."""

_ESCAPED = {number: ascii(chr(number))[1:-1] for number in (*range(32), *range(127, 160), 0x2028, 0x2029)}
"""What would end a line, or do something to a terminal."""


def frames(error: BaseException) -> list[str]:
    """Tell where an error came from, without its text: drivers quote parameters in it, and those hold documents."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


@contextlib.contextmanager
def logging_to_stderr(*, level: str, style: str) -> Iterator[None]:
    """Write events of `level` and above to standard error, as text or as JSON; after it, they are there.

    What is logged after it is written as well, as long as the process lives.
    """
    configure(level=level, style=style)
    try:
        yield
    finally:
        flush()


def flush() -> None:
    """Wait until what was logged is written, but no longer than LAST_LINES_SECONDS."""
    for writer in _writers:
        writer.flush(within_seconds=LAST_LINES_SECONDS)


_writers: list[LogWriter] = []
"""The one that lines go to, once there is one."""


def configure(*, level: str, style: str) -> None:
    """Write events of `level` and above to standard error, as text or as JSON."""
    writer = LogWriter(2, line=_line(style), lost=_lost)
    queued = SimpleNamespace(**dict.fromkeys(("debug", "info", "warning", "error", "critical"), writer.put))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lambda _logger, _method, event: ((event,), {}),  # the arguments of `writer.put`
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: queued,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forwarding(writer)], force=True)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # its way to tell of them is to write to standard error
    _log_uncaught(writer)
    _writers[:] = [writer]


class _Forwarding(logging.Handler):
    """Brings the lines of Python's own logging into ours."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line of a record."""
        try:
            told = record.getMessage()
        except Exception:  # noqa: BLE001  (arguments that do not fit: what was to be told is told all the same)
            told = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        found: dict[str, Any] = {"event": told, "level": record.levelname.lower(), "logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            found["exception"] = _text_of(*record.exc_info)
        self._writer.put(_STAMP(None, "", found))


_STAMP: Callable[..., Mapping[str, Any]] = structlog.processors.TimeStamper(fmt="iso", utc=True)


def _text_of(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(kind, error, trace))
    except Exception:  # noqa: BLE001  (an error whose own text raises)
        return kind.__name__


def _lost(count: int) -> Mapping[str, Any]:
    return _STAMP(None, "", {"event": "log lines could not be written and are lost", "level": "warning", "lost": count})


def _line(style: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what makes a line of an event; it must not end within."""
    if style == "json":
        as_json = structlog.processors.JSONRenderer()
        return lambda event: str(as_json(None, "", {key: _short(value) for key, value in event.items()}))
    if sys.stderr is None or not sys.stderr.isatty():
        return _plain
    coloured = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=0, pad_level=False)

    def text(event: Mapping[str, Any]) -> str:
        shown = {key: _printable(_short(value)) for key, value in event.items()}
        exception = shown.pop("exception", None)  # which structlog would write behind the line, in lines of its own
        line = coloured(None, "", shown)
        return line if exception is None else f"{line} exception={exception}"

    return text


def _plain(event: Mapping[str, Any]) -> str:
    """Return the line that structlog makes of an event where nobody wants colours, in a third of the time."""
    shown = {key: _printable(_short(value)) for key, value in event.items()}
    line = f"{shown.pop('timestamp')} [{shown.pop('level')}] {shown.pop('event')}"
    if logger := shown.pop("logger", None):
        line += f" [{logger}]"
    for key in sorted(shown):
        value = shown[key]
        line += f" {key}={value if isinstance(value, str) else repr(value)}"
    return line


def _short(value: object) -> object:
    return f"{value[:MOST_CHARACTERS]}…" if isinstance(value, str) and len(value) > MOST_CHARACTERS else value


def _printable(value: object) -> object:
    return value.translate(_ESCAPED) if isinstance(value, str) and not value.isprintable() else value


def _log_uncaught(writer: LogWriter) -> None:
    """Write errors that nobody caught as lines, where Python would write to standard error, and wait for that."""

    def put(event: str, where: str | None, *error: Any) -> None:
        writer.put(_STAMP(None, "", {"event": event, "level": "error", "where": where, "exception": _text_of(*error)}))

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        put("ended by an error", "the main thread", kind, error, trace)
        writer.flush(within_seconds=LAST_LINES_SECONDS)

    def in_a_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_type is not SystemExit:
            name = None if found.thread is None else found.thread.name
            put("a thread ended by an error", name, found.exc_type, found.exc_value, found.exc_traceback)

    def unraisable(found: Any) -> None:
        where = getattr(found.object, "__qualname__", type(found.object).__name__)
        put(found.err_msg or "an error that cannot be raised", where, *found[:3])

    sys.excepthook = uncaught
    threading.excepthook = in_a_thread
    sys.unraisablehook = unraisable
