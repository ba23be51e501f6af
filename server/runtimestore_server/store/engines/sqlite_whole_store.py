"""A whole store in an SQLite file: copied into another, and replaced by one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimestore_server.store.engines import store_file
from runtimestore_server.store.engines.private_files import Taken, beside, only_here, private, sync, sync_folder
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.engines.whole_store import NotWhole, WholeStore, why_not_written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtimestore_server.store.engines.answers import Progress
    from runtimestore_server.store.engines.sqlite_reading import SqliteFileToRead
    from runtimestore_server.store.engines.whole_store import Rows


class SqliteStore(WholeStore):
    """A store in an SQLite file."""

    needs_tables = False

    def __init__(self, database: SqliteFileToRead) -> None:
        self._database = database
        # As SQLite names what lies beside a file: a link is followed, and stays.
        self._file = Path(os.path.realpath(database.file))

    def copy_into(self, file: Path, progress: Progress) -> None:
        """Have SQLite itself write a compact copy, in one read transaction."""
        with self._database.readers.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA query_only = OFF")  # the copy is written; nothing else is
            pages, page_bytes = (driver.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            progress.begin("copying", pages * page_bytes)

            def look() -> int:
                progress.advance(min(file.stat().st_size, pages * page_bytes))
                return 0

            driver.set_progress_handler(look, 1_000_000)  # SQLite's own steps: a few times a second
            try:
                driver.execute("VACUUM INTO ?", (str(file),))
            except sqlite3.Error as error:
                raise why_not_written(error) from None
            finally:
                driver.set_progress_handler(None, 0)
                self._database.discard(connection)

    def occupied(self) -> bool:
        """Tell whether the file holds a byte, or what a server left beside it does."""
        return any(path.exists() and path.stat().st_size for path in (self._file, *beside(self._file)))

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """Make a file beside the store, where the next one is made; what a killed restore left of it is begun anew."""
        try:
            with only_here(Path(f"{self._file}.restoring")) as path:
                yield path
        except Taken:
            raise NotWhole(f"another restore of {self._file} is under way") from None

    def replace_by(self, file: Path, see: Callable[[Rows], None], *, replace: bool) -> str | None:
        """Put the file into place under its name, in one step: at every moment a whole store is there, or none was.

        What was there is kept under another name. Its log was brought into it before: a log that is left behind would
        be taken for that of the new file.
        """
        with contextlib.closing(store_file.open_file(file)) as connection:
            see(lambda shape: store_file.rows_of(connection, shape))
        if not self._file.exists():
            for left in beside(self._file):  # of a file that is gone, and of no use without it
                left.unlink(missing_ok=True)
            try:
                self._file.hardlink_to(file)  # which fails where a server made one meanwhile
            except FileExistsError:
                raise self._made_meanwhile() from None
            sync_folder(self._file.parent)
            return None
        with self._alone():
            filled = self.occupied()
            if filled and not replace:
                raise self._made_meanwhile()
            kept = self._keep() if filled else None
            try:
                file.replace(self._file)
            except OSError:
                if kept is not None:
                    kept.unlink()  # everything is as it was
                raise
            sync_folder(self._file.parent)
        return None if kept is None else str(kept)

    def _made_meanwhile(self) -> NotWhole:
        return NotWhole(f"a store was made at {self._file} meanwhile: stop the server that did")

    def _keep(self) -> Path:
        """Give what is there a second name."""
        kept = _name_for_what_is_replaced(self._file)
        try:
            kept.hardlink_to(self._file)
        except OSError:  # a file system without such links, or a file that is mounted alone
            with private(kept):
                shutil.copyfile(self._file, kept)
            sync(kept)
        sync_folder(self._file.parent)
        return kept

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the file alone, without a log beside it; nobody can open it meanwhile.

        Raises:
            NotWhole: somebody uses it.
        """
        driver = store_file.open_file(self._file, options="mode=rw")
        try:
            try:
                driver.execute("PRAGMA busy_timeout = 0")
                mode = driver.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
                driver.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise self._in_use() from None
                self._give_up_log()
            else:
                if mode != "delete":
                    raise self._in_use()
            yield
        finally:
            driver.close()

    def _in_use(self) -> NotWhole:
        return NotWhole(f"a server or another program has {self._file} open: stop it first")

    def _give_up_log(self) -> None:
        """Take the log of a file away that SQLite cannot make sense of; it is kept under another name."""
        with self._file.open("r+b") as opened:
            try:
                # What every open connection holds a lock on: SQLite's os.h, SHARED_SIZE and SHARED_FIRST.
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
            except OSError:
                raise self._in_use() from None
            for path in beside(self._file):
                if path.exists():
                    path.rename(_name_for_what_is_replaced(path))


def _name_for_what_is_replaced(file: Path) -> Path:
    return Path(f"{file}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
