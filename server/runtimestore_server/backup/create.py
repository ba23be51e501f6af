"""Take a backup: one consistent copy of a store in one file, with what it takes to check it."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtimestore_server.backup import manifest as manifests
from runtimestore_server.backup.manifest import Manifest
from runtimestore_server.backup.migrate_file import migrate_file
from runtimestore_server.store import schema
from runtimestore_server.store.engines import open_to_read, private_files, problem_of_file, whole_store, whole_store_of
from runtimestore_server.store.engines.store_file import open_file

if TYPE_CHECKING:
    from runtimestore_server.store.engines.answers import Progress


class CannotBackUp(Exception):
    """No backup was written; the message says why and what to do."""


class Backup(NamedTuple):
    """A backup that was written."""

    manifest: Manifest
    size_bytes: int
    sha256: str
    """Of the file, in hex, as `sha256sum` tells it."""


def create(database_url: str, file: Path, progress: Progress) -> Backup:
    """Write a backup of a store into `file`, which must not be there yet; servers may go on meanwhile.

    The file appears under its name when it is complete and synced: what is there is whole.

    Raises:
        CannotBackUp: the store cannot be backed up, or the file cannot be written.
        ValueError: the URL is none.
    """
    if database_url == "memory:":
        raise CannotBackUp("memory: is gone with its server; there is nothing to back up")
    if problem := problem_of_file(database_url):
        raise CannotBackUp(problem)
    _refuse_if_there(file)
    try:
        with private_files.only_here(Path(f"{file}.partial")) as partial:
            taken = _write(database_url, partial, progress)
            _refuse_if_there(file)  # it may have come meanwhile
            partial.rename(file)
        private_files.sync_folder(file.absolute().parent)
    except OSError as error:
        # The name is not repeated: it may be a URL with a password that was meant for a flag.
        raise CannotBackUp(f"FILE cannot be written: {error.strerror}") from None
    except whole_store.NotWhole as error:
        raise CannotBackUp(str(error)) from None
    except private_files.Taken:
        raise CannotBackUp(f"another backup into {file} is under way; name another file") from None
    return taken


def _refuse_if_there(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise CannotBackUp(f"{file} is there already; name another file, or move it away")


def _write(database_url: str, file: Path, progress: Progress) -> Backup:
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    database = open_to_read(database_url)
    try:
        with database.readers.connect() as connection:
            state = schema.inspect(connection)
        if state.foreign or state.revision not in schema.REVISIONS:
            raise CannotBackUp(state.problem() or "")
        whole = whole_store_of(database, schema.migrate)
        if whole.needs_tables:
            migrate_file(file, state.revision)
        whole.copy_into(file, progress)
        engine = database.name
    finally:
        database.dispose()
    with contextlib.closing(open_file(file, options="mode=rw")) as copy:
        # Rows as they were, whatever they are: `verify` tells of damage, and a backup keeps what can be kept.
        found = manifests.digests(copy, progress, "adding up")
        (store_id,) = copy.execute("SELECT store_id FROM store_identity").fetchone()
        manifest = Manifest(
            store_id=store_id,
            schema_revision=state.revision or "",
            engine=engine,
            version=version("runtimestore"),
            taken_at=taken_at,
            tables=found,
        )
        manifests.write(copy, manifest)
    private_files.sync(file)
    return Backup(manifest, file.stat().st_size, _sha256_of(file))


def _sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
