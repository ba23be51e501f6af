"""Runs statements on the driver's own cursor: SQLAlchemy defines them and compiles each once.

What SQLAlchemy does around a statement costs more than a small statement itself. Its errors, and what listens to them,
stay: a driver's error goes the way of all others.
"""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeVar

from sqlalchemy.exc import MultipleResultsFound

from runtimestore_server.store.tables import UInt64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import sqlalchemy as sa
    from sqlalchemy.engine import Connection

    Parameters = Mapping[str, Any] | Sequence[Any]

T = TypeVar("T")

Row = tuple[Any, ...]

_KEPT = "_runtimestore_driver"
"""The attribute of a connection of SQLAlchemy's that keeps what `_driver` found."""


class Answer(Generic[T]):
    """The rows of a statement, fetched when they are asked for: in a pipeline, that is when they are waited for.

    Calling it may raise what the statement raised, or one that was sent before it.
    """

    __slots__ = ("_fetch", "_found")

    def __init__(self, fetch: Callable[[], T] | None) -> None:
        self._fetch = fetch
        self._found: T

    def __call__(self) -> T:
        """Return what was found."""
        if self._fetch is not None:
            self._found, self._fetch = self._fetch(), None
        return self._found

    @classmethod
    def found(cls, found: T) -> Answer[T]:
        """Return one that is known."""
        answer = cls(None)
        answer._found = found
        return answer


class Compiled(NamedTuple):
    """A statement as the driver takes it, and what its rows are."""

    text: str
    order: tuple[str, ...] | None
    """The names of its parameters where they are told apart by their place."""
    constants: Mapping[str, Any]
    """The values that stand in the statement itself."""
    row: Callable[[Iterable[Any]], Any]
    """Makes a row of its values."""
    numbers: tuple[int, ...]
    """The places of uint64 values, which are stored as digits."""


def compiled(statement: Any, dialect: sa.Dialect) -> Compiled:
    """Compile a statement."""
    made = statement.compile(dialect=dialect)
    order = getattr(made, "positiontup", None)
    columns = statement.exported_columns
    named: Any = namedtuple  # noqa: PYI024  (its fields are those of the statement)
    return Compiled(
        text=str(made),
        order=None if order is None else tuple(order),
        constants={name: value for name, value in made.params.items() if value is not None},
        # As its `_make` does but for the count of the values, which is the statement's.
        row=partial(tuple.__new__, named("row", columns.keys())),
        numbers=tuple(place for place, column in enumerate(columns) if isinstance(column.type, UInt64)),
    )


_compiled: dict[tuple[sa.Executable, str], Compiled] = {}
"""By the name of the dialect: a server has an engine for each of several purposes."""


def compiled_once(statement: sa.Executable, dialect: sa.Dialect) -> Compiled:
    """Compile a statement that is made once."""
    key = statement, dialect.name
    if (made := _compiled.get(key)) is None:
        made = _compiled[key] = compiled(statement, dialect)
    return made


def find(tx: Connection, statement: sa.Executable, parameters: Mapping[str, Any]) -> list[Any]:
    """Ask what a statement that is made once finds with these parameters, which go to the driver as they are."""
    return ask(tx, compiled_once(statement, tx.dialect), parameters)


def find_one(tx: Connection, statement: sa.Executable, parameters: Mapping[str, Any]) -> Any:
    """Ask for the one row that such a statement finds, if any.

    Raises:
        MultipleResultsFound: there are several, which of a primary key only a damaged index gives.
    """
    rows = find(tx, statement, parameters)
    if len(rows) > 1:
        raise MultipleResultsFound("there are several rows of one key")
    return rows[0] if rows else None


def ask(tx: Connection, statement: Compiled, parameters: Mapping[str, Any]) -> list[Any]:
    """Ask what a compiled statement finds."""
    bound = {**statement.constants, **parameters}
    values = bound if statement.order is None else tuple(map(bound.__getitem__, statement.order))
    return as_rows(statement, fetch(tx, statement.text, values))


def as_rows(statement: Compiled, rows: list[Row]) -> list[Any]:
    """Return what a compiled statement found, as its rows."""
    if not statement.numbers:
        return list(map(statement.row, rows))
    return [
        statement.row([int(value) if place in statement.numbers else value for place, value in enumerate(row)])
        for row in rows
    ]


def fetch(tx: Connection, text: str, parameters: Parameters) -> list[Row]:
    """Run a statement once; its rows."""
    if (driver := _driver(tx)) is None:
        return [tuple(row) for row in tx.exec_driver_sql(text, parameters)]
    cursor = driver.cursor()
    try:
        cursor.execute(text, parameters)
        found: list[Row] = cursor.fetchall()
    except Exception as error:  # noqa: BLE001  (raised anew)
        raise_as_all_others(tx, error, text, cursor)
    return found


def run(tx: Connection, text: str, rows: Sequence[Parameters]) -> None:
    """Run a statement that finds nothing, for each of these parameters."""
    if (driver := _driver(tx)) is None:
        tx.exec_driver_sql(text, rows if len(rows) > 1 else rows[0])
        return
    cursor = driver.cursor()
    try:
        if len(rows) == 1:
            cursor.execute(text, rows[0])
        else:
            cursor.executemany(text, rows)
    except Exception as error:  # noqa: BLE001  (raised anew)
        raise_as_all_others(tx, error, text, cursor)


def raise_as_all_others(tx: Connection, error: Exception, text: str, cursor: Any = None) -> NoReturn:
    """Raise a driver's error as SQLAlchemy does its own: wrapped, told to whoever listens, the connection judged."""
    tx._handle_dbapi_exception(error, text, None, cursor, None)  # noqa: SLF001  (there is no other way to all of that)


def observed(tx: Connection) -> bool:
    """Tell whether somebody listens to statements: he is told of these, too, by SQLAlchemy's own way."""
    listened = tx.engine.dispatch  # asked of the connection, it would make lists of its own anew, each time
    return bool(listened.before_cursor_execute or listened.after_cursor_execute)


def _driver(tx: Connection) -> Any:
    """Find the driver's connection; None where somebody listens. To ask for both each time costs more than some do.

    Kept with the one that SQLAlchemy has at the time: after an error, it may have another one.
    """
    proxied = tx.connection
    kept: tuple[object, Any] | None = tx.__dict__.get(_KEPT)
    if kept is None or kept[0] is not proxied:
        kept = tx.__dict__[_KEPT] = proxied, None if observed(tx) else proxied.driver_connection
    return kept[1]
