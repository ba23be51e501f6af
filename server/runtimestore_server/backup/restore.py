"""Restore a store from a backup, onto either engine, all or nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.exc import DBAPIError

from runtimestore_server.backup import manifest as manifests
from runtimestore_server.backup.migrate_file import migrate_file
from runtimestore_server.store import schema
from runtimestore_server.store.engines import open_to_read, private_files, store_file, whole_store, whole_store_of
from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runtimestore_server.backup.manifest import Manifest, TableDigest
    from runtimestore_server.store.engines.answers import Progress
    from runtimestore_server.store.engines.whole_store import Rows, WholeStore


class CannotRestore(Exception):
    """The store is as it was; the message says why and what to do."""


class Restored(NamedTuple):
    """A store that was restored."""

    manifest: Manifest
    """Of the backup."""
    schema_revision: str
    """The revision that the store is at now; the backup's may be older."""
    tables: dict[str, TableDigest]
    """What the store holds now, found by reading it."""
    kept: str | None
    """Where the file is that was there before, if there was one."""


def restore(file: Path, database_url: str, progress: Progress, *, replace: bool = False) -> Restored:
    """Make the database what the backup in `file` is; with `replace` also where a store is already.

    The backup is checked before anything is touched, brought to this version's schema in a copy, and what is about to
    take effect is read back and compared.

    Raises:
        CannotRestore: the backup is none, cut off, altered or of a newer schema, a store is there, or a server uses it.
        ValueError: the URL is none.
    """
    if database_url == "memory:":
        raise CannotRestore("memory: forgets everything when its server stops; restore into a file or Postgres")
    try:
        if not file.is_file():
            # Not repeated: it may be a URL with a password that was meant for a flag.
            raise CannotRestore(f"FILE {'is no file' if file.exists() else 'is not there'}; see --help")
        file.open("rb").close()  # SQLite would say that it cannot, and not why
        manifest = manifests.read(file, progress)
    except store_file.NotABackup as error:
        raise CannotRestore(f"{file}: {error}") from None
    except OSError as error:
        raise CannotRestore(f"FILE: {error.strerror}") from None
    if manifest.schema_revision not in schema.REVISIONS:
        raise CannotRestore(
            f"{file}: is of schema revision {manifest.schema_revision}, which this version does not know (it knows "
            f"{schema.REVISIONS[-1]}): version {manifest.version} wrote it, restore it with that or a newer one"
        )
    try:
        with _target(database_url) as target:
            if target.occupied() and not replace:
                raise CannotRestore(
                    "a store or something else is there already; name another --database-url, or say --replace"
                )
            return _put(file, manifest, target, progress, replace=replace)
    except (schema.SchemaNotCurrent, whole_store.NotWhole) as error:
        raise CannotRestore(str(error)) from None
    except OSError as error:
        raise CannotRestore(f"{error.filename or 'the database'}: {error.strerror}") from None


def _put(file: Path, manifest: Manifest, target: WholeStore, progress: Progress, *, replace: bool) -> Restored:
    found: dict[str, TableDigest] = {}
    with target.stage() as stage:
        taken = _staged(file, manifest, stage, progress)
        with contextlib.closing(store_file.open_file(stage)) as opened:
            shapes = store_file.shapes(opened)

        def see(rows: Rows) -> None:
            progress.begin("comparing", len(shapes))
            for done, shape in enumerate(shapes, 1):
                found[shape.name] = manifests.digest(rows(shape))
                progress.advance(done)
            if found != taken:
                different = sorted(name for name in taken if taken[name] != found.get(name))
                raise CannotRestore(f"the database did not take the backup as it is: {', '.join(different)} differ")

        progress.begin("restoring", 0)
        kept = target.replace_by(stage, see, replace=replace)
    return Restored(manifest, schema.HEAD, found, kept)


def _staged(file: Path, manifest: Manifest, stage: Path, progress: Progress) -> dict[str, TableDigest]:
    """Make an empty file a store of this version's schema with the rows of a backup; what it holds then.

    Rows alone are taken over: of what else is in the file no digest speaks.
    """
    try:
        migrate_file(stage, manifest.schema_revision)
        with contextlib.closing(store_file.open_file(stage, options="mode=rw")) as opened:
            progress.begin("copying", 0)
            store_file.fill_from(opened, file)
            taken = manifests.digests(opened, progress, "adding up")
        if taken != manifest.tables:
            raise CannotRestore(f"{file}: it was altered, or a value in it is of no type that its column takes")
        if manifest.schema_revision != schema.HEAD:
            migrate_file(stage)
            with contextlib.closing(store_file.open_file(stage)) as opened:
                taken = manifests.digests(opened, progress, "adding up")
    except store_file.NotABackup as error:
        raise CannotRestore(f"{file}: {error}") from None
    except (DBAPIError, sqlite3.Error) as error:
        raise whole_store.why_not_written(getattr(error, "orig", error)) from None
    private_files.sync(stage)
    return taken


@contextlib.contextmanager
def _target(database_url: str) -> Iterator[WholeStore]:
    database = open_to_read(database_url)
    try:
        yield whole_store_of(database, schema.migrate)
    finally:
        database.dispose()
