"""Decides whether a server tells of its calls as traces, and says what is missing where it cannot.

Nothing of OpenTelemetry is imported here, or by any module that is imported without being asked: without the extra
`[otel]`, or where nobody asks for traces, a call takes the way that it would take if there were none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from runtimestore_server.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtimestore_server.store.engines import Database
    from runtimestore_server.telemetry.spans import Traces

_log = structlog.get_logger(__name__)


def open_traces(database: Database, *, version: str) -> Traces | None:
    """Return the traces of a server over this database; None where nobody asks for them, or they cannot be had.

    What OpenTelemetry's own variables say decides. No value of them is told: headers are credentials.
    """
    if not _wanted(os.environ):
        return None
    try:
        from runtimestore_server.telemetry.span_export import Export
        from runtimestore_server.telemetry.spans import Traces

        traces = Traces(Export(version=version))
        traces.watch({database.writers, database.readers}, tables=metadata.tables)
        database.committing = traces.committing
    except ImportError:
        _log.warning("no traces: OTEL_* asks for them, but the extra is missing: pip install 'runtimestore[otel]'")
    except Exception as error:  # noqa: BLE001  (a server without traces is better than none)
        _log.warning("no traces: a variable OTEL_* cannot be used", error=type(error).__name__)
    else:
        return traces
    return None


def _wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter in ("", "otlp"):
        endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        return bool(exporter) or any(environ.get(name, "").strip() for name in endpoints)
    if exporter != "none":
        _log.warning("no traces: of OTEL_TRACES_EXPORTER's values this server knows otlp and none")
    return False
