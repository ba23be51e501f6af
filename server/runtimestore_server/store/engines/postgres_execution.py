"""Runs a commit's statements in the pipeline of their connection, where one is open, else one by one."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any

from runtimestore_server.store.engines import direct
from runtimestore_server.store.engines.direct import Answer
from runtimestore_server.store.engines.postgres_pipeline import Pipeline, Sent, statement_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines.answers import KeyNotFree
    from runtimestore_server.store.engines.direct import Row

_PIPELINE = "runtimestore_pipeline"
"""The attribute of a connection of psycopg's that has its pipeline, and of SQLAlchemy's that opened it."""

_statement_of = cache(statement_of)


@contextlib.contextmanager
def pipeline(tx: Connection) -> Iterator[None]:
    """Open a pipeline for the statements inside. It stays open for COMMIT to end it; what is raised closes it."""
    import psycopg

    driver: Any = tx.connection.driver_connection
    if (opened := getattr(driver, _PIPELINE, None)) is None:
        opened = Pipeline(driver)
        setattr(driver, _PIPELINE, opened)
    tx.__dict__[_PIPELINE] = opened  # to find it by way of the driver's connection takes eight calls
    try:
        opened.begin()
        yield
    except psycopg.Error as error:
        opened.abandon()
        direct.raise_as_all_others(tx, error, "BEGIN")
    except BaseException:
        opened.abandon()
        raise


def pipeline_of(driver: Any) -> Pipeline | None:
    """Return the pipeline of a connection of psycopg's, if it had one."""
    found: Pipeline | None = getattr(driver, _PIPELINE, None)
    return found


def open_pipeline_of(driver: Any) -> Pipeline | None:
    """Return the pipeline that is open on a connection of psycopg's."""
    found = pipeline_of(driver)
    return found if found is not None and found.is_open else None


def in_pipeline(tx: Connection) -> bool:
    """Tell whether what is run goes into a pipeline."""
    return _opened_by(tx) is not None


def _opened_by(tx: Connection) -> Pipeline | None:
    found: Pipeline | None = tx.__dict__.get(_PIPELINE)
    return found if found is not None and found.is_open else None


def is_idle(tx: Connection) -> bool:
    """Tell whether its connection is whole and in no transaction."""
    from psycopg.pq import TransactionStatus

    if tx.invalidated:
        return False
    driver: Any = tx.connection.driver_connection
    return bool(driver.info.transaction_status == TransactionStatus.IDLE)


def run(tx: Connection, text: str, parameters: Mapping[str, Any]) -> None:
    """Run a statement that finds nothing."""
    if (opened := _opened_by(tx)) is None:
        direct.run(tx, text, [parameters])
    else:
        _send(tx, opened, text, parameters, None)


def fetch(
    tx: Connection, text: str, parameters: Mapping[str, Any], *, taken: KeyNotFree | None = None
) -> Answer[list[Row]]:
    """Run a statement once; its rows. In a pipeline `taken` is raised where the statement divides by zero."""
    import psycopg

    if (opened := _opened_by(tx)) is None:
        return Answer.found(direct.fetch(tx, text, parameters))
    sent = _send(tx, opened, text, parameters, taken)

    def rows() -> list[Row]:
        try:
            return opened.found(sent)
        except psycopg.Error as error:
            direct.raise_as_all_others(tx, error, text)

    return Answer(rows)


def _send(tx: Connection, opened: Pipeline, text: str, parameters: Mapping[str, Any], taken: KeyNotFree | None) -> Sent:
    import psycopg

    try:
        return opened.send(_statement_of(text), parameters, taken=taken)
    except psycopg.Error as error:
        direct.raise_as_all_others(tx, error, text)
