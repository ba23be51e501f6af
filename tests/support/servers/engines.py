"""The matrix: every engine that the promises hold on, where its databases come from and how it is made to fail.

Tests name no engine; they ask for a capability by `@pytest.mark.needs`.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.exc import DisconnectionError

from runtimestore_server.store.schema import upgrade
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from support.servers.postgres import Cluster

DURABLE = "durable"
"""What was written survives the server, and several servers share it."""

EPHEMERAL = "ephemeral"
"""What was written is gone with the server."""

UNTYPED_COLUMNS = "untyped columns"
"""A column keeps a value of any type, whatever its own is."""


class Engine(ABC):
    """A kind of storage: fresh databases, and faults that are the engine's own errors, not stand-ins."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[str]] = frozenset({DURABLE})

    @abstractmethod
    def fresh_url(self, *, migrated: bool = True) -> str:
        """The URL of a new database. A migrated one is a copy, and so the same authority as every other copy."""

    @abstractmethod
    def copy(self, url: str) -> str:
        """The URL of a copy of a database that nobody has open."""

    @abstractmethod
    def drop(self, url: str) -> None:
        """Remove a database. Fails, where the engine can tell, if somebody is still connected."""

    @abstractmethod
    def read_only(self, database: Database) -> contextlib.AbstractContextManager[None]:
        """Inside, the engine takes no writes."""

    @abstractmethod
    def full(self, database: Database) -> contextlib.AbstractContextManager[None]:
        """Inside, there is no room for a session snapshot."""

    @abstractmethod
    def text_of(self, database: Database, raw: bytes) -> sa.ColumnElement[Any]:
        """These bytes as text, though they may be none: what a disk leaves in a column, and no statement would."""

    @abstractmethod
    def misdirect(self, arguments: list[Any], parameters: dict[str, Any]) -> None:
        """Change what a connection is made with, so that nothing answers there."""

    @contextlib.contextmanager
    def unreachable(self, database: Database) -> Iterator[None]:
        """Inside, no connection can be made."""

        def misdirected(_dialect: Any, _record: Any, arguments: list[Any], parameters: dict[str, Any]) -> None:
            self.misdirect(arguments, parameters)

        def broken(*_: Any) -> None:
            raise DisconnectionError

        told = {"do_connect": misdirected, "checkout": broken}  # the second of connections that are there already
        with listening(database.writers, **told), listening(database.readers, **told):
            yield


class Sqlite(Engine):
    name = "sqlite"
    capabilities = frozenset({DURABLE, UNTYPED_COLUMNS})

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template.db"

    def fresh_url(self, *, migrated: bool = True) -> str:
        path = self._folder / f"{uuid.uuid4().hex}.db"
        if migrated:
            if not self._template.exists():
                upgrade(f"sqlite:///{self._template}")
            shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"

    def copy(self, url: str) -> str:
        path = self._folder / f"{uuid.uuid4().hex}.db"
        shutil.copyfile(url.removeprefix("sqlite:///"), path)
        return f"sqlite:///{path}"

    def drop(self, url: str) -> None:
        path = Path(url.removeprefix("sqlite:///"))
        Path(f"{path}-lock").unlink(missing_ok=True)  # a process that was killed leaves it; it says nothing of the log
        # The last connection that is closed takes the log along; what remains of it shows one that is still open.
        left = [file.name for file in self._folder.glob(f"{path.name}-*")]
        path.unlink()
        assert left == []

    def text_of(self, database: Database, raw: bytes) -> sa.ColumnElement[Any]:
        del database
        return sa.literal_column(f"CAST(X'{raw.hex()}' AS TEXT)")

    def misdirect(self, arguments: list[Any], parameters: dict[str, Any]) -> None:
        del parameters
        arguments[0] = str(self._folder / "nothing" / "here.db")

    @contextlib.contextmanager
    def read_only(self, database: Database) -> Iterator[None]:
        with _within_transactions(database, "PRAGMA query_only = ON", "PRAGMA query_only = OFF"):
            yield

    @contextlib.contextmanager
    def full(self, database: Database) -> Iterator[None]:
        with _within_transactions(database, "PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000000"):
            yield


class Memory(Sqlite):
    name = "memory"
    capabilities = frozenset({EPHEMERAL, UNTYPED_COLUMNS})

    def fresh_url(self, *, migrated: bool = True) -> str:
        del migrated
        return "memory:"

    def drop(self, url: str) -> None:
        """Nothing to do: it went with its server."""


class Postgres(Engine):
    name = "postgres"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def fresh_url(self, *, migrated: bool = True) -> str:
        return self._cluster.fresh_database(migrated=migrated)

    def copy(self, url: str) -> str:
        return self._cluster.copy(url)

    def drop(self, url: str) -> None:
        self._cluster.drop(url)

    def text_of(self, database: Database, raw: bytes) -> sa.ColumnElement[Any]:
        # A cast without a function looks at nothing.
        _execute(
            database,
            """
            DO $$ BEGIN
                CREATE CAST (bytea AS text) WITHOUT FUNCTION;
            EXCEPTION WHEN duplicate_object THEN NULL;
            END $$
            """,
        )
        return sa.literal_column(f"CAST('\\x{raw.hex()}'::bytea AS text)")

    def misdirect(self, arguments: list[Any], parameters: dict[str, Any]) -> None:
        del arguments
        parameters["host"] = "/nothing/here"

    @contextlib.contextmanager
    def read_only(self, database: Database) -> Iterator[None]:
        with _within_transactions(database, "SET TRANSACTION READ ONLY", "SELECT 1"):
            yield

    @contextlib.contextmanager
    def full(self, database: Database) -> Iterator[None]:
        # Postgres' own words and code; the rest of the way to the caller is real.
        _execute(
            database,
            """
            CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'could not extend file "base/16384/2619": No space left on device'
                    USING ERRCODE = 'disk_full';
            END $$
            """,
            "CREATE TRIGGER disk_full BEFORE INSERT OR UPDATE ON session_versions EXECUTE FUNCTION disk_full()",
        )
        try:
            yield
        finally:
            _execute(database, "DROP FUNCTION disk_full CASCADE")


def _execute(database: Database, *statements: str) -> None:
    with database.writers.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@contextlib.contextmanager
def _within_transactions(database: Database, first: str, last: str) -> Iterator[None]:
    """Inside, each writing transaction begins with one statement and ends, before its ROLLBACK, with another."""

    def driver(connection: Connection) -> Any:
        return connection.connection.driver_connection

    def begun(connection: Connection) -> None:
        driver(connection).execute(first)

    def ended(connection: Connection) -> None:
        with contextlib.suppress(Exception):  # Postgres takes nothing but ROLLBACK now, and needs nothing else
            driver(connection).execute(last)

    with listening(database.writers, begin=begun, rollback=ended, commit=ended):
        yield
