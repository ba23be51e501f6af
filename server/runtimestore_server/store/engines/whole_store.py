"""A whole store of either engine: what it takes to copy it into one file, and to replace it by one."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from runtimestore_server.store.engines.sqlite_driver import sqlite3

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runtimestore_server.store.engines.answers import Progress
    from runtimestore_server.store.engines.store_file import TableShape

    Rows = Callable[[TableShape], Iterator[tuple[Any, ...]]]
    """The rows of a table in the order of its key, read anew."""


class NotWhole(Exception):
    """The store cannot be copied or replaced whole: it is damaged, or in use; the message says what to do."""


class WholeStore(ABC):
    """All of a store, on whatever engine it is."""

    needs_tables: bool
    """Whether `copy_into` fills tables that are in the file already."""

    @abstractmethod
    def copy_into(self, file: Path, progress: Progress) -> None:
        """Make `file` a store with all that this one holds at one moment; servers may go on meanwhile."""

    @abstractmethod
    def stage(self) -> contextlib.AbstractContextManager[Path]:
        """Make an empty file, its owner's alone to read, where the store is made that `replace_by` takes; gone after.

        Raises:
            NotWhole: another restore is under way.
        """

    @abstractmethod
    def occupied(self) -> bool:
        """Tell whether anything is there that a restore would replace."""

    @abstractmethod
    def replace_by(self, file: Path, see: Callable[[Rows], None], *, replace: bool) -> str | None:
        """Make this store what the store in `file` is, all or nothing; says where what was there before is now.

        `see` looks at the rows of what is about to take effect, and raises if they are not right. Without
        `replace` nothing gives way that came meanwhile.

        Raises:
            NotWhole: a server has it open, or made it meanwhile.
        """


def why_not_written(error: Any) -> Exception:
    """Tell whose fault it is that a file was not written: that of what was read, or that of the file itself."""
    match error.sqlite_errorcode & 0xFF:
        case sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case sqlite3.SQLITE_IOERR:  # no room for a log's index among others, and pysqlite3 has one code for all
            return OSError(errno.EIO, "there is no room, or a disk fails")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return NotWhole(
                "the store is damaged, and cannot be read whole: `runtimestore verify` lists what is, and "
                "`sqlite3 FILE .recover` saves what can still be read"
            )
    told: Exception = error
    return told
