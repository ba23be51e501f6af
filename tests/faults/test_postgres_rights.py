"""A role of Postgres that may do less than the server needs: it is told which right is missing, and nothing is lost."""

from __future__ import annotations

import asyncio
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from runtimestore import RuntimeState, StoreForbidden
from runtimestore_server.services.health import NOT_SERVING, SERVING
from runtimestore_server.store import reads, requests, rights, schema, tables
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.listing import list_versions
from runtimestore_server.store.versions.pruning import Pruning
from runtimestore_server.store.versions.recent import RecentSessions
from runtimestore_server.store.writes import Acquisition, Write
from support.generators.calls import Store
from support.generators.store_writes import boundary, commit, document, new_id, oauth, ops, runtime, snapshot
from support.servers.command import run
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from runtimestore_server.app import Application
    from runtimestore_server.store.engines import Database
    from support.servers.postgres import Cluster

PASSWORD = "hunter-2"  # noqa: S105  (nobody's)
DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
PAIRS = [(table, right) for table, granted in rights.NEEDED.items() for right in granted]


class Role:
    """A role that owns nothing, and its way into one database."""

    def __init__(self, cluster: Cluster, *, migrated: bool = True) -> None:
        self._cluster = cluster
        self.owner_url = cluster.fresh_database(migrated=migrated)
        self.name = f"role_{uuid.uuid4().hex}"
        self.execute(f"CREATE ROLE {self.name} LOGIN PASSWORD '{PASSWORD}'")
        url = make_url(self.owner_url).set(username=self.name, password=PASSWORD)
        self.url = url.render_as_string(hide_password=False)

    def execute(self, *statements: str) -> None:
        """Run statements as the owner of everything."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def grant_as_documented(self, role: str) -> None:
        """Grant what docs/operations.md lists for a role, and no more."""
        name = make_url(self.owner_url).database or ""
        granted = re.findall(rf"^GRANT .* TO {role};$", DOCUMENTED.read_text(), re.MULTILINE)
        assert granted
        for statement in granted:
            self.execute(statement.replace("DATABASE runtimestore ", f"DATABASE {name} ").replace(role, self.name))

    def close(self) -> None:
        """Drop both."""
        self.execute(f"DROP OWNED BY {self.name}")
        self._cluster.drop(self.owner_url)
        with psycopg.connect(self._cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(self.name)))


@pytest.fixture
def role(postgres_cluster: Cluster) -> Iterator[Role]:
    """A role with exactly the rights that are documented for `serve`."""
    found = Role(postgres_cluster)
    found.grant_as_documented("runtimestore_serve")
    yield found
    found.close()


def _refused(url: str) -> str:
    database = open_database(url, committer_threads=1, reader_threads=1)
    try:
        with pytest.raises(schema.SchemaNotCurrent) as refused:
            schema.check(database)
    finally:
        database.dispose()
    return str(refused.value)


def _everything(database: Database) -> list[object]:
    """What became of every kind of write, load and forgetting, in as many transactions as there are ways."""
    one, other, unwritten = runtime(), runtime(), runtime()
    fence = Acquisition(one, new_id(), "owner")
    whole = Write(
        one, new_id(), snapshot=snapshot(), receipt=boundary(), inputs=(document(),), runtime_state="idle", ops=ops()
    )
    flow = new_id()
    batches: list[list[object]] = [
        [whole],
        [Write(one, snapshot=snapshot(), inputs=(document(),), runtime_state="idle", ops=ops())],
        [Write(other, inputs=(document(),))],
        [Write(other, ops=ops())],
        [Write(unwritten, if_revision=7, runtime_state="idle")],
        [fence],
        [Acquisition(one, new_id(), "another")],
        [Write(one, fence=2, runtime_state="running")],
        [oauth(b"flow", request_id=flow)],
        [oauth(b"flow", request_id=flow)],
        [oauth(b"other flow")],
    ]
    told: list[object] = [decision for batch in batches for decision in commit(database, *batch)]  # type: ignore[arg-type]
    loads = (
        load_session,
        reads.load_input_states,
        reads.load_runtime_state,
        reads.load_ops_lifecycle,
        lambda tx, key: list_versions(tx, key, most=10),
        lambda tx, key: load_session(tx, key, as_of_revision=1),
        lambda tx, key: reads.load_boundary_receipt(tx, key, new_id(), 0),
        lambda tx, key: reads.load_oauth_flow_snapshot(tx, key.realm),
        lambda tx, _key: schema.store_id(tx),
        lambda tx, _key: schema.inspect(tx),
    )
    for load in loads:
        with database.readers.connect() as connection:
            try:
                load(connection, one)
            except DBAPIError as error:
                told.append(database.classify(error))
    folding = Folding(database, RecentSessions(0))
    sweeps: tuple[Callable[[Connection], int], ...] = (
        lambda tx: requests.forget(tx, before_ms=2**60, most=10),
        lambda tx: Pruning(lambda _tx: 2**60, folding).sweep(tx, 1000),
    )
    for sweep in sweeps:
        try:
            with database.writers.begin() as tx:
                sweep(tx)
        except DBAPIError as error:
            told.append(database.classify(error))
    return told


async def test_a_server_serves_under_exactly_the_rights_that_are_documented(role: Role, realm: str) -> None:
    async with in_process(role.url) as app, Store(app.address, realm=realm) as store:
        await store.commit_machine_lifecycle("rt", RuntimeState.IDLE, [])
        await store.acquire_runtime("rt", "owner")
        await app._check()
        told = await asyncio.to_thread(_everything, app.store.database)

    (missed,) = [one for one in told if not isinstance(one, Outcome)]  # the one with an if_revision that is missed
    assert getattr(missed, "reason", None) == "REVISION_MISMATCH"


def test_every_right_that_is_needed_is_needed_and_is_told_by_its_name(role: Role) -> None:
    unused = []
    database = open_database(role.url, committer_threads=1, reader_threads=1)
    try:
        for table, right in PAIRS:
            role.execute(f"REVOKE {right} ON {table} FROM {role.name}")
            refusals = [one for one in _everything(database) if not isinstance(one, Outcome)]
            named = {(one.table, one.right) for one in refusals if isinstance(one, StoreForbidden)}
            assert named <= {(table, right)}
            if not named and _forbidden(refusals) == 0:
                unused.append((table, right))
            assert f"{right} on {table}" in _refused(role.url)
            role.execute(f"GRANT {right} ON {table} TO {role.name}")
    finally:
        database.dispose()
    assert unused == []


def _forbidden(told: list[object]) -> int:
    """How often a load was refused for a right."""
    return [str(one) for one in told].count("Fault.FORBIDDEN")


def test_a_role_that_may_only_read_is_refused_at_start_in_one_sentence(
    postgres_cluster: Cluster, tmp_path: Path
) -> None:
    role = Role(postgres_cluster)
    try:
        role.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role.name}")
        done = run("serve", cwd=tmp_path, extra={"RUNTIMESTORE_DATABASE_URL": role.url})
    finally:
        role.close()

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "INSERT on fences" in done.stderr
    assert "UPDATE on runtimes" in done.stderr
    assert PASSWORD not in done.stderr


async def _told(app: Application, status: object) -> None:
    async with asyncio.timeout(30):
        while app.health._server_status[""] != status:  # noqa: ASYNC110  (what is told to others is looked at)
            await asyncio.sleep(0.02)


async def test_a_right_that_is_revoked_while_serving_is_refused_by_its_name_and_told_by_health(
    role: Role, realm: str
) -> None:
    async with in_process(role.url, health_interval_seconds=0.1) as app, Store(app.address, realm=realm) as store:
        await store.commit_machine_lifecycle("rt", RuntimeState.IDLE, [])
        role.execute(f"REVOKE INSERT ON fences FROM {role.name}")
        acquired, written = await asyncio.gather(
            store.acquire_runtime("rt", "owner"),
            store.commit_machine_lifecycle("rt", RuntimeState.RUNNING, []),
            return_exceptions=True,
        )
        await _told(app, NOT_SERVING)
        role.execute(f"REVOKE SELECT ON inputs FROM {role.name}")  # noqa: S608  (a name of the test's own)
        with pytest.raises(StoreForbidden) as unread:
            await store.load_input_states("rt")
        role.execute(f"GRANT INSERT ON fences TO {role.name}", f"GRANT SELECT ON inputs TO {role.name}")
        await _told(app, SERVING)
        again = await store.acquire_runtime("rt", "owner")

    assert isinstance(acquired, StoreForbidden)
    assert (acquired.table, acquired.right, acquired.store_error) == ("fences", "INSERT", "write_failed")
    assert not isinstance(written, BaseException), "a write that needs no such right went down with one that does"
    assert unread.value.store_error == "read_failed"
    assert again.fence == 1


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        ("REVOKE DELETE ON requests FROM {role}", "DELETE on requests"),
        ("REVOKE USAGE ON SCHEMA public FROM {role}, PUBLIC", "USAGE on public"),
        ("ALTER TABLE inputs ENABLE ROW LEVEL SECURITY", "BYPASSRLS on inputs"),
    ],
    ids=["forgetting", "schema", "row-level security"],
)
def test_what_would_go_wrong_in_silence_is_refused_at_start(role: Role, taken: str, named: str) -> None:
    role.execute(taken.format(role=role.name))

    assert named in _refused(role.url)


def test_migrate_needs_what_is_documented_and_says_what_it_lacks(postgres_cluster: Cluster, tmp_path: Path) -> None:
    role = Role(postgres_cluster, migrated=False)
    extra = {"RUNTIMESTORE_DATABASE_URL": role.url}
    try:
        role.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        lacking = run("migrate", cwd=tmp_path, extra=extra)
        role.grant_as_documented("runtimestore_migrate")
        enough = run("migrate", cwd=tmp_path, extra=extra)
    finally:
        role.close()

    assert lacking.returncode == 1
    assert lacking.stderr.startswith("runtimestore: the database role lacks a right"), lacking.stderr
    assert enough.returncode == 0, enough.stderr


def test_the_rights_are_those_of_all_tables() -> None:
    assert set(rights.NEEDED) == {*tables.metadata.tables, "alembic_version"}
