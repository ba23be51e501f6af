"""The format of a backup: an SQLite file of the store's own tables, and a table that says what must be in them.

The manifest names the store, the schema revision, and for every table the number of its rows and a SHA-256 over all of
them. So a backup that was cut off, altered or mixed up is noticed whatever became of it, and two stores are the same
exactly if these digests are, on whatever engine each is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.engines.store_file import BACKUP_TABLE, NotABackup, open_file, rows_of, shapes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from runtimestore_server.store.engines.answers import Progress

FORMAT = 1
"""The version of this format. A reader refuses what is newer."""


class TableDigest(NamedTuple):
    """What a table holds."""

    rows: int
    sha256: str
    """In hex, over all rows in the order of their primary key."""


class Manifest(NamedTuple):
    """What a backup says of itself."""

    store_id: str
    schema_revision: str
    engine: str
    """The engine that the store was on."""
    version: str
    """The version of runtimestore that wrote the backup."""
    taken_at: str
    """When, in ISO 8601 with the zone."""
    tables: dict[str, TableDigest]
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """How many rows are in all tables together."""
        return sum(table.rows for table in self.tables.values())

    def to_json(self) -> str:
        """Return the stored form."""
        return json.dumps(self._asdict() | {"tables": {name: found._asdict() for name, found in self.tables.items()}})

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the stored form.

        Raises:
            NotABackup: it is none, or of a newer format.
        """
        try:
            found = json.loads(text)
            if found["format"] > FORMAT:
                raise NotABackup(
                    f"a newer version of runtimestore, {found['version']}, wrote it (format {found['format']}, "
                    f"this version knows {FORMAT}): restore it with that version"
                )
            tables = {name: TableDigest(**table) for name, table in found.pop("tables").items()}
            return cls(tables=tables, **found)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NotABackup("its manifest cannot be read: it was altered") from None


def digest(rows: Iterable[tuple[Any, ...]]) -> TableDigest:
    """Return what rows in the order of their key hold, each value framed by its type and length."""
    total = hashlib.sha256()
    count = 0
    for row in rows:
        count += 1
        for value in row:
            kind, content = _framed(value)
            total.update(b"%s%d:" % (kind, len(content)))
            total.update(content)
    return TableDigest(count, total.hexdigest())


def _framed(value: object) -> tuple[bytes, bytes]:
    match value:
        case None:
            return b"n", b""
        case bytes():
            return b"b", value
        case str():
            return b"t", value.encode(errors="surrogateescape")
        case _:
            return b"i", str(value).encode()


def digests(connection: sqlite3.Connection, progress: Progress, step: str) -> dict[str, TableDigest]:
    """Return what each table of a file holds."""
    found = {}
    every = shapes(connection)
    progress.begin(step, len(every))
    for done, shape in enumerate(every, 1):
        found[shape.name] = digest(rows_of(connection, shape))
        progress.advance(done)
    return found


def write(connection: sqlite3.Connection, manifest: Manifest) -> None:
    """Make a file a backup."""
    connection.execute(f'CREATE TABLE "{BACKUP_TABLE}" (manifest TEXT NOT NULL)')
    connection.execute(f'INSERT INTO "{BACKUP_TABLE}" VALUES (?)', (manifest.to_json(),))  # noqa: S608  (a name of our own)


def read(file: Path, progress: Progress) -> Manifest:
    """Return the manifest of a backup, once all that it says of the file was found to be so.

    Raises:
        NotABackup: it is none, it was cut off or altered, or a newer version wrote it.
    """
    try:
        with contextlib.closing(open_file(file)) as connection:
            manifest = Manifest.from_json(_stored_manifest(connection))
            progress.begin("checking pages", 0)
            if (problem := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise NotABackup(f"it is damaged: {' '.join(str(problem).split())}")
            found = digests(connection, progress, "checking rows")
            revision = ",".join(row[0] for row in connection.execute("SELECT version_num FROM alembic_version"))
    except sqlite3.Error as error:
        raise NotABackup(f"it is damaged or cut off ({error.sqlite_errorname})") from None
    except (TypeError, ValueError):  # a name of a table or column that is none, also in the text of an error
        raise NotABackup("it is damaged") from None
    if revision != manifest.schema_revision:
        raise NotABackup(f"it is at revision {revision}, its manifest says {manifest.schema_revision}: it was altered")
    if found != manifest.tables:
        different = sorted(
            name for name in found.keys() | manifest.tables if found.get(name) != manifest.tables.get(name)
        )
        raise NotABackup(f"it is not as it was written: {', '.join(different)} differ from what its manifest says")
    return manifest


def _stored_manifest(connection: sqlite3.Connection) -> str:
    try:
        stored = connection.execute(f'SELECT manifest FROM "{BACKUP_TABLE}"').fetchall()  # noqa: S608  (a name of our own)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_ERROR:
            raise NotABackup(
                "it is an SQLite database, but no backup that `runtimestore backup` wrote: to serve a store, name its "
                "file in --database-url"
            ) from None
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            raise NotABackup("it is no backup: not even an SQLite file") from None
        raise
    if len(stored) != 1:
        raise NotABackup("it has no manifest of its own: it was altered")
    return str(stored[0][0])
