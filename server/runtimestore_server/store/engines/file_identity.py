"""Checks that the SQLite file that is open is the one that its path names, and holds the store that it held.

A file that is removed or replaced stays open: writes go on into what nobody will ever read. SQLite does not look, so
it is looked here, by the numbers of the file, its log and the log's index, whenever a connection is made or one that
reads is taken out of the pool, and before and after each COMMIT. What is written over in place keeps its numbers; then
the time of the last change leads to a look at a few bytes of the file itself. See docs/decisions/0045.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from typing import TYPE_CHECKING, Any

import structlog

from runtimestore_server.store.engines.answers import EngineRefusal
from runtimestore_server.store.engines.shared_handles import OtherFile, SharedHandles, numbers_of
from runtimestore_server.store.engines.sqlite_driver import HEADER_BYTES, MAGIC
from runtimestore_server.store.engines.sqlite_log import Log

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from runtimestore_server.store.engines.shared_handles import Numbers

_log = structlog.get_logger(__name__)

BESIDE = ("-wal", "-shm")
"""The log, and the log's index."""

_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class FileReplaced(EngineRefusal):
    """The file that is open is not, or not as it was, where its path leads."""

    words = "the file, or its log, was replaced while it was open: {}"


class FileIdentity:
    """What the connections of one database have open. For any thread.

    Args:
        path: the file as the settings name it; if it is a link, it is followed anew each time.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: Numbers | None = None
        self._beside: tuple[Numbers | None, ...] = ()
        self._log: Log | None = None
        self._live = 0
        self._handle: int | None = None
        self._store_id: bytes | None = None
        self._place = 0, 0
        """Where in the file that stands, once a checkpoint brought it there: the offset of its page, and the length."""
        self._looked: tuple[tuple[int, int], str | None] | None = None
        self._changes = 0
        self._largest_bytes = 0
        self._told: str | None = None

    def watch(self, engine: Engine, *, looks_when_used: bool) -> None:
        """Let no connection of this engine be made where it would be of another file, nor, so asked, be used."""
        from sqlalchemy import event

        event.listen(engine, "do_connect", self._connecting)
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "close", self._closing)
        if looks_when_used:
            event.listen(engine, "engine_connect", self._used)

    def check(self) -> None:
        """See that the path leads to what is open.

        Raises:
            FileReplaced: it does not; the message says what is there instead.
        """
        with self._lock:
            problem = self._problem()
            if problem != self._told:
                if problem:
                    _log.error("the file was replaced while it was open", file=self._path, found=problem)
                else:
                    _log.info("the file is the one that is open again", file=self._path)
            self._told = problem
        if problem:
            raise FileReplaced(problem)

    def sync(self) -> None:
        """Have the system bring onto the disk what was written into the file.

        What fails here fails SQLite's own sync, too: Linux tells everybody who has the file open.

        Raises:
            OSError: it could not.
        """
        if self._handle is not None:
            os.fdatasync(self._handle)

    def close(self) -> None:
        """Let go of the file; every connection is closed."""
        with self._lock:
            if self._log is not None and not self._live:
                self._log.close()
                self._log = None
            if self._handle is not None and self._file is not None and not self._live:
                _handles.give_back(self._file)
                self._handle = None

    def _problem(self) -> str | None:
        if self._file is None:
            return None
        try:
            status = os.lstat(self._path)  # a tenth of the time of a Path; it is asked at every COMMIT
            is_link = stat.S_ISLNK(status.st_mode)
            if is_link:
                status = os.stat(self._path)  # noqa: PTH116
        except OSError as error:
            return f"there is no file: {error.strerror}"
        if (status.st_dev, status.st_ino) != self._file:
            return "another file is there"
        if self._live and self._found_beside(is_link=is_link) != self._beside:
            return "the log beside it was removed or replaced"
        if self._live and self._log is not None and self._log.was_cut():
            return "the log beside it was cut short"
        changed = (status.st_size, status.st_mtime_ns)
        if self._looked is None or self._looked[0] != changed:
            self._looked = changed, self._look_inside(status.st_size)
        return self._looked[1]

    def _look_inside(self, size_bytes: int) -> str | None:
        """Return what somebody wrote over the file, if that can be told from it; damage of other kinds reads find."""
        if self._handle is None:
            return None
        header = os.pread(self._handle, HEADER_BYTES, 0)
        pages = int.from_bytes(header[28:32], "big")
        page_bytes = int.from_bytes(header[16:18], "big")
        needed_bytes = pages * (65536 if page_bytes == 1 else page_bytes)
        if size_bytes < self._largest_bytes and (size_bytes < HEADER_BYTES or size_bytes < needed_bytes):
            return "it was cut short"
        self._largest_bytes = size_bytes
        if self._store_id is not None:
            found = _UUID.findall(os.pread(self._handle, self._place[1], self._place[0]))
            if found and self._store_id not in found:
                return "another store was written over it"
        if header.startswith(MAGIC):
            # Of a copy that was made before. Checkpoints never take it back.
            changes = int.from_bytes(header[24:28], "big")
            if changes < self._changes:
                return "an older copy was written over it"
            self._changes = changes
        return None

    def _named_by_sqlite(self) -> str:
        """Return the file by whose name SQLite calls what lies beside it: where a link leads."""
        return os.path.realpath(self._path) if os.path.islink(self._path) else self._path  # noqa: PTH114

    def _found_beside(self, *, is_link: bool) -> tuple[Numbers | None, ...]:
        file = self._named_by_sqlite() if is_link else self._path
        log, index = BESIDE
        return _numbers(file + log), _numbers(file + index)

    def _connecting(self, _dialect: object, record: Any, _arguments: object, _parameters: object) -> None:
        self.check()
        if record is not None:
            record.info[FileIdentity] = _numbers(self._path)
        file = self._named_by_sqlite()
        for suffix in BESIDE:
            self._give_mode(file + suffix)

    def _give_mode(self, beside: str) -> None:
        """Give the log, or its index, the file's present mode, and its owner the right to write it in any case.

        SQLite gives it the mode that the file has when the log is made. Where the file could not be written then, who
        opens the log later is refused, though the file can be written by now. And an index that was opened for reading
        stays so for all connections of a process, until the last of them is closed.
        """
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(os.stat(self._path).st_mode) | stat.S_IWUSR  # noqa: PTH116  (beside os.chmod)
            found = os.lstat(beside).st_mode
            if stat.S_ISREG(found) and stat.S_IMODE(found) != mode:  # where a link leads is not the store's
                os.chmod(beside, mode)  # noqa: PTH101

    def _connected(self, driver: Any, record: Any) -> None:
        before = record.info.pop(FileIdentity, None)
        try:
            self._adopt(driver, before)
        except BaseException:
            driver.close()
            raise

    def _adopt(self, driver: Any, before: Numbers | None) -> None:
        store_id, place = _store_id(driver)  # which opens the log, too
        with self._lock:
            file = _numbers(self._path)
            if file is None or before not in (None, file):
                raise FileReplaced("it was replaced while it was opened")
            if self._file is None:
                self._handle = _take(self._path, file)
                self._file = file
                if not os.access(self._path, os.W_OK):
                    _log.warning("the file may only be read: no write will be taken", file=self._path)
            elif file != self._file:
                raise FileReplaced("another file is there")
            if self._store_id is None:
                self._store_id, self._place = store_id, place
            elif store_id != self._store_id and store_id is not None:
                raise FileReplaced("another store is there")
            beside = self._found_beside(is_link=os.path.islink(self._path))  # noqa: PTH114
            if not self._live:
                self._beside = beside
                self._look_at_log()
            elif beside != self._beside:
                raise FileReplaced("the log beside it was removed or replaced")
            self._live += 1

    def _look_at_log(self) -> None:
        before, self._log = self._log, None
        with contextlib.suppress(OSError):  # there is none, or it may not be written
            self._log = Log(self._named_by_sqlite() + BESIDE[0])
        if before is not None:
            before.close()  # after the new one is there: it may be the same

    def _closing(self, _driver: object, _record: object) -> None:
        with self._lock:
            self._live -= 1

    def _used(self, connection: Connection) -> None:
        try:
            self.check()
        except FileReplaced:
            connection.close()
            raise


def _store_id(driver: Any) -> tuple[bytes | None, tuple[int, int]]:
    """Return the id of the store as its bytes, and where its page is; None if there is none, or it cannot be read."""
    from runtimestore_server.store.tables import store_identity

    name = store_identity.name
    try:
        row = driver.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None, (0, 0)
        (page_bytes,) = driver.execute("PRAGMA page_size").fetchone()
        (found,) = driver.execute(f"SELECT store_id FROM {name}").fetchone()  # noqa: S608  (a name of ours)
        told = found.encode()
    except Exception:  # noqa: BLE001  (damage is found, and told, by who reads it)
        return None, (0, 0)
    return (told if _UUID.fullmatch(told) else None), ((row[0] - 1) * page_bytes, page_bytes)


def _numbers(path: str) -> Numbers | None:
    try:
        return numbers_of(path)
    except OSError:
        return None


_handles = SharedHandles(os.O_RDONLY)


def _take(path: str, file: Numbers) -> int:
    try:
        return _handles.take(path, file)
    except OtherFile as error:
        raise FileReplaced(str(error)) from None
