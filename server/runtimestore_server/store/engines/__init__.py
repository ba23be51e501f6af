"""Holds all that SQLite and Postgres do differently. No module outside names an engine; they ask for a capability.

Both are driven synchronously: writers and readers have an SQLAlchemy engine each, used from threads of the store's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from runtimestore_server.store.engines.answers import (
    ChangedMeanwhile,
    CommitState,
    EngineRefusal,
    Fault,
    KeyNotFree,
    Lacking,
    RowTaken,
    Sizes,
)
from runtimestore_server.store.engines.database import Database
from runtimestore_server.store.engines.files import file_problem
from runtimestore_server.store.engines.memory import MemoryDatabase
from runtimestore_server.store.engines.postgres import PostgresDatabase
from runtimestore_server.store.engines.postgres_rights import why_not
from runtimestore_server.store.engines.postgres_whole_store import PostgresStore
from runtimestore_server.store.engines.sqlite import SqliteDatabase
from runtimestore_server.store.engines.sqlite_reading import SqliteFileToRead, belongs_to_a_database
from runtimestore_server.store.engines.sqlite_whole_store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.exc import DBAPIError

    from runtimestore_server.store.engines.whole_store import WholeStore

__all__ = [
    "CannotOpen",
    "ChangedMeanwhile",
    "CommitState",
    "Database",
    "EngineRefusal",
    "Fault",
    "KeyNotFree",
    "Lacking",
    "RowTaken",
    "Sizes",
    "belongs_to_a_database",
    "error_name",
    "in_a_sentence",
    "open_database",
    "open_to_read",
    "parse_url",
    "problem_of_file",
    "whole_store_of",
]

_SLASHES = (
    "a slash is missing: it is sqlite:///FILE with three of them for a file in the working directory, and "
    "sqlite:////FOLDER/FILE with four for a path from the root"
)


class CannotOpen(ValueError):
    """The file that a URL names cannot be a store; the message says why, and the cure."""


def open_database(url: str, *, committer_threads: int, reader_threads: int) -> Database:
    """Return the database behind a URL: `sqlite:///FILE`, `postgresql://…` or `memory:`. Connects to nothing yet.

    Raises:
        ValueError: the URL is none of these.
        CannotOpen: there is no such file, nor can one be made, or it may not be read.
    """
    if url == "memory:":
        return MemoryDatabase()
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        if problem := file_problem(str(parsed.database)):
            raise CannotOpen(problem)
        return SqliteDatabase(parsed, reader_threads=reader_threads)
    return PostgresDatabase(parsed, committer_threads=committer_threads, reader_threads=reader_threads)


def open_to_read(url: str) -> Database:
    """Return the database behind a URL other than `memory:`, for `snapshot` alone; nothing in it is changed.

    Raises:
        ValueError: the URL is none.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteFileToRead(parsed)
    return PostgresDatabase(parsed, committer_threads=1, reader_threads=1)


def whole_store_of(database: Database, migrate: Callable[[Connection], object]) -> WholeStore:
    """Return all of what a database holds or is to hold, to be copied or replaced; `migrate` gives it its tables."""
    if isinstance(database, PostgresDatabase):
        return PostgresStore(database, migrate)
    assert isinstance(database, SqliteFileToRead)  # noqa: S101  (for the type checker: there is no third)
    return SqliteStore(database)


def problem_of_file(url: str) -> str | None:
    """Say why the file that a URL names cannot be read; None where it can be tried, or where it names no file."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    return file_problem(str(parsed.database), to_read=True)


def error_name(error: BaseException) -> str:
    """Return what an error is, such as `OperationalError(SQLITE_BUSY)`, without what drivers quote in its text."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return f"{type(cause).__name__}({code})" if code else type(cause).__name__


def in_a_sentence(error: DBAPIError) -> str:
    """Say why a database cannot be used, to the operator: drivers name host, file and role, never the password."""
    said = " ".join(str(error.orig).split())
    match getattr(error.orig, "sqlite_errorname", "").split("_")[1:2]:
        case ["NOTADB"]:
            return "the file is no SQLite database, or its first page is destroyed; see --database-url"
        case ["CORRUPT"]:
            return "the file is damaged: `runtimestore verify` says what is left; restore a backup; see --database-url"
        case ["READONLY"]:
            return "the file, or its log (-wal), may only be read: let this user write them and their folder"
        case ["CANTOPEN"]:
            return "the file, or its log (-wal), cannot be opened: may this user write the file and its folder?"
    return f"{why_not(error.orig) or 'the database does not answer'}: {said}; see --database-url"


def parse_url(url: str) -> URL:
    """Return the parts of a database URL other than `memory:`.

    Raises:
        ValueError: it is none; the message quotes no part of it, for any part may be a misplaced password.
    """
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        if url.startswith("sqlite:"):
            raise ValueError(_SLASHES) from None
        raise ValueError("must be sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or memory:") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.host:
        raise ValueError(_SLASHES)
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("sqlite:///FILE needs a file; for a store without one say memory:")
    if backend == "sqlite" and (parsed.query or str(parsed.database).startswith("file:")):
        raise ValueError("sqlite:///FILE takes no options behind a ?, and no URI of SQLite's own: name the file alone")
    if backend not in ("sqlite", "postgresql", "postgres"):
        raise ValueError("must begin with sqlite:///, postgresql:// or be memory:")
    if backend != "sqlite":
        # Else a part of the password would be looked up as a host or a database, and told.
        authority, at, rest = url.partition("//")[2].partition("@")
        if at and (set("/?#") & set(authority) or "@" in rest.partition("?")[0]):
            raise ValueError("a password with @, /, ? or # in it must be written with %40, %2F, %3F or %23")
    return parsed
