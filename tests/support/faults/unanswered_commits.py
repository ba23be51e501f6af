"""A COMMIT whose answer does not come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from runtimestore_server.store.engines import Database

    CommitFault = Callable[[Any, Callable[[Any], None]], None]


def at_next_commit(database: Database, monkeypatch: pytest.MonkeyPatch, fault: CommitFault) -> list[int]:
    """Let `fault` take the place of the next COMMIT; the list grows when it was called."""
    dialect = database.writers.dialect
    real = dialect.do_commit
    called: list[int] = []

    def do_commit(connection: Any) -> None:
        if called:
            real(connection)
        else:
            called.append(1)
            fault(connection, real)

    monkeypatch.setattr(dialect, "do_commit", do_commit)
    return called


def terminated(database: Database, *, committed: bool) -> CommitFault:
    """The backend is told to go just before, or just after, it committed; the driver notices as it does in life."""

    def fault(connection: Any, real: Callable[[Any], None]) -> None:
        backend = connection.driver_connection.info.backend_pid
        if committed:
            real(connection)
        url = database.writers.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        if committed:
            connection.driver_connection.execute("SELECT 1")  # the answer that never came
        else:
            real(connection)

    return fault
