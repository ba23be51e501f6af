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
"""The attribute of a connection of psycopg's that has its pipeline."""

_statement_of = cache(statement_of)


@contextlib.contextmanager
def opened(tx: Connection) -> Iterator[None]:
    """Open a pipeline for the statements inside. It stays open for COMMIT to end it; what is raised closes it."""
    import psycopg

    driver: Any = tx.connection.driver_connection
    if (pipeline := getattr(driver, _PIPELINE, None)) is None:
        pipeline = Pipeline(driver)
        setattr(driver, _PIPELINE, pipeline)
    try:
        pipeline.begin()
        yield
    except psycopg.Error as error:
        pipeline.abandon()
        direct.raise_as_all_others(tx, error, "BEGIN")
    except BaseException:
        pipeline.abandon()
        raise


def of(driver: Any) -> Pipeline | None:
    """Return the pipeline of a connection of psycopg's, if it had one."""
    found: Pipeline | None = getattr(driver, _PIPELINE, None)
    return found


def open_on(driver: Any) -> Pipeline | None:
    """Return the pipeline that is open on a connection of psycopg's."""
    pipeline = of(driver)
    return pipeline if pipeline is not None and pipeline.is_open else None


def are_open(tx: Connection) -> bool:
    """Tell whether what is run goes into a pipeline."""
    return open_on(tx.connection.driver_connection) is not None


def is_idle(tx: Connection) -> bool:
    """Tell whether its connection is whole and in no transaction."""
    from psycopg.pq import TransactionStatus

    if tx.invalidated:
        return False
    driver: Any = tx.connection.driver_connection
    return bool(driver.info.transaction_status == TransactionStatus.IDLE)


def run(tx: Connection, text: str, parameters: Mapping[str, Any]) -> None:
    """Run a statement that finds nothing."""
    if (pipeline := open_on(tx.connection.driver_connection)) is None:
        direct.run(tx, text, [parameters])
    else:
        _send(tx, pipeline, text, parameters, None)


def fetch(
    tx: Connection, text: str, parameters: Mapping[str, Any], *, taken: KeyNotFree | None = None
) -> Answer[list[Row]]:
    """Run a statement once; its rows. In a pipeline `taken` is raised where the statement divides by zero."""
    import psycopg

    if (pipeline := open_on(tx.connection.driver_connection)) is None:
        return Answer.found(direct.fetch(tx, text, parameters))
    sent = _send(tx, pipeline, text, parameters, taken)

    def rows() -> list[Row]:
        try:
            return pipeline.found(sent)
        except psycopg.Error as error:
            direct.raise_as_all_others(tx, error, text)

    return Answer(rows)


def _send(
    tx: Connection, pipeline: Pipeline, text: str, parameters: Mapping[str, Any], taken: KeyNotFree | None
) -> Sent:
    import psycopg

    try:
        return pipeline.send(_statement_of(text), parameters, taken=taken)
    except psycopg.Error as error:
        direct.raise_as_all_others(tx, error, text)
