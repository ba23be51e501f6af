"""A store as one SQLite file that nobody else uses: what tables it has, and their rows as they are stored.

Backups are such files on every engine. What is carried is read off the file itself, so that a new table or column is
never left out.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BACKUP_TABLE = "runtimestore_backup"
"""The table that makes a file a backup; a restored store has none."""

REVISION_TABLE = "alembic_version"
"""Where the schema revision stands."""


class NotABackup(Exception):
    """The file cannot be restored from; the message says why."""


class TableShape(NamedTuple):
    """A table as the file has it."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


def open_file(file: Path, *, options: str = "mode=ro&immutable=1") -> sqlite3.Connection:
    """Open a backup, or a store made from one, which nobody else uses."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?{options}", uri=True, isolation_level=None)
    connection.text_factory = lambda text: text.decode(errors="surrogateescape")
    return connection


def shapes(connection: sqlite3.Connection) -> list[TableShape]:
    """Return the tables whose content a backup carries: all that are there, so that a new one is never left out."""
    found = []
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall():
        if name in (BACKUP_TABLE, REVISION_TABLE) or name.startswith("sqlite_"):  # these tell of the file itself
            continue
        columns = connection.execute("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", (name,)).fetchall()
        key = tuple(column for column, position in sorted(columns, key=lambda column: column[1]) if position)
        found.append(TableShape(name, tuple(column for column, _ in columns), key))
    return found


def rows_of(connection: sqlite3.Connection, shape: TableShape) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table in the order of its key."""
    yield from connection.execute(select(shape))


def select(shape: TableShape) -> str:
    """Return the statement that reads a table in the order of its key; on every engine, since keys compare as bytes."""
    columns, key = (", ".join(f'"{name}"' for name in names) for names in (shape.columns, shape.key))
    return f'SELECT {columns} FROM "{shape.name}" ORDER BY {key}'  # noqa: S608  (names of our own tables)


def fill(connection: sqlite3.Connection, shape: TableShape, rows: Iterable[tuple[Any, ...]]) -> None:
    """Replace the rows of a table."""
    places = ", ".join("?" * len(shape.columns))
    columns = ", ".join(f'"{name}"' for name in shape.columns)
    connection.execute(f'DELETE FROM "{shape.name}"')  # noqa: S608  (a name of our own)
    connection.executemany(f'INSERT INTO "{shape.name}" ({columns}) VALUES ({places})', rows)  # noqa: S608  (the same)


def fill_from(connection: sqlite3.Connection, file: Path) -> None:
    """Replace the rows of all tables by those of the same tables in another file, as they are stored.

    Raises:
        NotABackup: its tables, their columns or keys are others, or a row is none of theirs.
    """
    with contextlib.closing(open_file(file)) as other:
        theirs = shapes(other)
    ours = shapes(connection)
    if theirs != ours:
        different = sorted({shape.name for shape in {*theirs} ^ {*ours}})
        raise NotABackup(f"it was altered: {', '.join(different)} are not as its schema revision has them")
    connection.execute("ATTACH ? AS other", (f"{file.absolute().as_uri()}?mode=ro&immutable=1",))
    connection.execute("PRAGMA synchronous = OFF")  # synced whole at the end
    connection.execute("BEGIN")
    for shape in ours:
        columns, key = (", ".join(f'"{name}"' for name in names) for names in (shape.columns, shape.key))
        connection.execute(f'DELETE FROM main."{shape.name}"')  # noqa: S608  (names of our own tables)
        try:
            connection.execute(
                f'INSERT INTO main."{shape.name}" ({columns})'  # noqa: S608  (the same)
                f' SELECT {columns} FROM other."{shape.name}" ORDER BY {key}'
            )
        except sqlite3.IntegrityError:
            raise NotABackup(f"it was altered: a row of {shape.name} is none that the table takes") from None
    connection.execute("COMMIT")
    connection.execute("DETACH other")
