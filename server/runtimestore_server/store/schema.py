"""The schema of a database: which revision it is at, whether it can be served, and how it is brought up to date."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from runtimestore_server.store import rights
from runtimestore_server.store.engines import Fault, open_database
from runtimestore_server.store.reads import corrupt
from runtimestore_server.store.tables import metadata, store_identity
from runtimestore_server.store.timeouts import TRANSIENT_LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.config import Config
    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

T = TypeVar("T")

HEAD = "0006"
"""The newest revision. Known without loading Alembic; a test holds it against the migrations."""

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""All revisions, oldest first."""

CARRYING = "0003"
"""The revision at which sessions of an older store are carried over, in slices; no server serves it."""

_VERSION_TABLE = "alembic_version"

_versions = sa.Table(
    _VERSION_TABLE,
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""As Alembic makes it."""


class SchemaNotCurrent(Exception):
    """The database cannot be served as it is; the message names both revisions and the command to run."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What is known of a database's schema."""

    revision: str | None
    """The revision it is at; None if it has none."""
    empty: bool
    """Whether it has no table at all."""
    foreign: bool = False
    """Whether it has tables, but not ours: other programs keep an `alembic_version` too, and number alike."""

    @property
    def current(self) -> bool:
        """Whether this server can serve it."""
        return self.revision == HEAD and not self.foreign

    def problem(self) -> str | None:
        """Return what is wrong and what to do, in one sentence; None if nothing is."""
        if self.current:
            return None
        if self.empty:
            return (
                f"the database is empty (at no revision), this server needs revision {HEAD}: run `runtimestore migrate`"
            )
        if not self.foreign and not re.fullmatch(r"\d{4}", self.revision or ""):
            return (
                f"the database's revision is damaged: it is {self.revision or 'gone'}, this server needs {HEAD}: "
                "`runtimestore verify` says what else is damaged; restore a backup"
            )
        if self.revision is None:
            return (
                f"the database holds tables that are not RuntimeStore's (at no revision, this server needs {HEAD}): "
                "point --database-url at a database of its own and run `runtimestore migrate`"
            )
        if self.revision in REVISIONS and not self.foreign:
            return (
                f"the database is behind: at revision {self.revision}, this server needs {HEAD}: "
                "run `runtimestore migrate`"
            )
        return (
            f"the database is ahead or foreign: at revision {self.revision}, which this server does not know; it needs "
            f"{HEAD}: install the version of runtimestore that wrote it, or run `runtimestore migrate` of that version"
        )


def inspect(connection: Connection) -> SchemaState:
    """Return the schema state of a database, in one or two quick statements."""
    names = set(sa.inspect(connection).get_table_names())
    foreign = bool(names) and store_identity.name not in names
    if _VERSION_TABLE not in names:
        return SchemaState(revision=None, empty=not names, foreign=foreign)
    versions = list(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars())
    return SchemaState(
        # Columns of other programs, and damaged ones, hold anything; no revision of ours looks like its repr.
        revision="+".join(sorted(v if isinstance(v, str) else repr(v) for v in versions)) or None,
        empty=False,
        foreign=foreign,
    )


def create_if_empty(database: Database) -> None:
    """Give an empty database its schema; leave any other as it is.

    It is made of the tables, which are what the migrations make: Alembic would stay in the memory of a server.
    """
    _while_locked(database, _create)


def _create(database: Database) -> None:
    with database.readers.connect() as connection:
        if not inspect(connection).empty:
            return
    with database.writers.begin() as connection:
        database.migration_lock(connection)
        if inspect(connection).empty:  # else somebody else has made it meanwhile
            metadata.create_all(connection, checkfirst=False)
            connection.execute(sa.insert(store_identity).values(singleton=1, store_id=str(uuid.uuid4())))
            _versions.create(connection, checkfirst=False)
            connection.execute(sa.insert(_versions).values(version_num=HEAD))


def current_revision(database: Database) -> str:
    """Return the revision of a schema that is current, made where there is none and the database makes its own.

    Raises:
        SchemaNotCurrent: it is another one; the message says what to do.
    """
    if database.creates_itself:
        create_if_empty(database)
    return check(database).revision or ""


def check(database: Database) -> SchemaState:
    """Return the schema state of a database that this server can serve.

    Raises:
        SchemaNotCurrent: it cannot; the message says what to do.
    """
    with database.readers.connect() as connection:
        problem = database.problem(connection) or rights.problem(database, connection)
        state = inspect(connection) if problem is None else None
    if state is None or (problem := state.problem()):
        raise SchemaNotCurrent(problem)
    return state


def problems(connection: Connection, database: Database) -> dict[str, str | None]:
    """Say why an open database cannot be served any more, a sentence each for `rights` and `schema`; None where it can.

    In a few quick statements.
    """
    found = rights.problem(database, connection)
    return {"rights": found, "schema": None if found else inspect(connection).problem()}


def upgrade(database_url: str) -> tuple[str | None, str]:
    """Bring a database to the newest revision; the revisions before and after. Several processes may run it at once.

    Raises:
        SchemaNotCurrent: it holds another program's tables, or a revision from the future.
    """
    database = open_database(database_url, committer_threads=1, reader_threads=1)
    try:
        return upgrade_database(database)
    finally:
        database.dispose()


def upgrade_database(database: Database) -> tuple[str | None, str]:
    """Bring an open database to the newest revision; the revisions before and after.

    It happens in transactions under a lock: whoever comes second waits, takes part, or finds nothing to do. An empty
    database takes one. Sessions of a store without versions are carried over in slices; cut off, the upgrade goes on
    from there when it is run again.

    Raises:
        SchemaNotCurrent: it holds another program's tables, or a revision from the future.
    """
    return _while_locked(database, _upgrade)


def _while_locked(database: Database, work: Callable[[Database], T]) -> T:
    """Do work that can be done anew until nobody else holds the lock of the database, or for a while."""
    deadline = time.monotonic() + TRANSIENT_LIMIT_SECONDS
    while True:
        try:
            return work(database)
        except DBAPIError as error:
            if database.classify(error) is not Fault.TRANSIENT or time.monotonic() >= deadline:
                raise


def _upgrade(database: Database) -> tuple[str | None, str]:
    with database.readers.connect() as connection:
        if problem := database.problem(connection):
            raise SchemaNotCurrent(problem)
        state = inspect(connection)
    if state.current:
        return state.revision, HEAD
    with database.writers.begin() as connection:
        database.migration_lock(connection)
        before = migrate(connection, HEAD if state.empty else CARRYING)
    if before in REVISIONS[: REVISIONS.index(CARRYING) + 1]:
        _carry_sessions_over(database)
    with database.writers.begin() as connection:
        database.migration_lock(connection)
        migrate(connection)
    return before, HEAD


def _carry_sessions_over(database: Database) -> None:
    from runtimestore_migrations.carrying import carry_some

    with database.writers.connect() as connection:
        carried_bytes = 1
        while carried_bytes:
            with connection.begin():
                database.migration_lock(connection)
                carried_bytes = carry_some(connection)
            database.after_commit(connection, writes=0, carried_bytes=carried_bytes)


def migrate(connection: Connection, revision: str = HEAD) -> str | None:
    """Bring the tables that a transaction sees to a revision, if they are at none as new; the revision before.

    Raises:
        SchemaNotCurrent: they are another program's, or of a revision from the future.
    """
    state = inspect(connection)
    if not state.current:
        if not state.empty and (state.foreign or state.revision not in REVISIONS):
            raise SchemaNotCurrent(state.problem())
        if state.revision is None or state.revision < revision:
            run_migrations(connection, revision)
    return state.revision


def run_migrations(connection: Connection, revision: str = HEAD) -> None:
    """Bring the tables that a transaction sees to a revision; they are at it, or at an older one, or there are none."""
    from alembic import command

    config = migrations_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def migrations_config() -> Config:
    """Make Alembic's configuration: the tree of migrations, found the same way in a checkout and in a wheel."""
    from alembic.config import Config

    import runtimestore_migrations

    config = Config()
    config.set_main_option("script_location", runtimestore_migrations.__path__[0].replace("%", "%%"))
    return config


def store_id(connection: Connection) -> str:
    """Return the id of this store, minted by the first migration.

    Raises:
        StoredValueCorrupt: it is gone, or no UUID.
    """
    found: list[object] = list(connection.execute(sa.select(store_identity.c.store_id)).scalars())
    try:
        if len(found) == 1 and isinstance(found[0], str) and str(uuid.UUID(found[0])) == found[0]:
            return found[0]
    except ValueError:
        pass
    raise corrupt(store_identity.name, "is not one UUID", singleton="1")
