"""Tells which errors of Postgres say that a prepared statement cannot be run any more, though the same text can."""

from __future__ import annotations

from typing import Any


def is_stale(error: Any) -> bool:
    """Tell whether an error of the driver's says that a statement which was prepared before went stale."""
    match getattr(error, "sqlstate", None):
        case "26000":  # invalid_sql_statement_name: it is there no more
            return True
        case "0A000":  # feature_not_supported: it would find columns of other types by now, or something else
            # A trigger of an operator's, or what stands in the place of a table, has the same code from elsewhere, and
            # would have it for ever. None: what stands between has left it out.
            return error.diag.source_function in ("RevalidateCachedQuery", None)
    return False
