"""Damage beneath the tables, in the pages of the engine's own files."""

from __future__ import annotations

import asyncio
import shutil
import struct
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runtimestore import StoredValueCorrupt
from runtimestore_server.store import tables
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from scripts.postgres_installation import NoPostgres
from scripts.postgres_server import PostgresServer
from support.checkers.clean_up import until
from support.checkers.damaged_files import ONCE, RUNTIMES, Filled, is_told
from support.generators.calls import RUNTIME_WRITES, Store, id_of, input_of
from support.generators.documents import ops
from support.servers.database import held_commits
from support.servers.postgres import Cluster
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from runtimestore_server.app import Application
    from support.checkers.torture import Trial

SQLITE_HEADER_BYTES = 12
"""A page begins with what it is and where its cells are: SQLite's file format, "B-tree Pages"."""
POSTGRES_PAGE_BYTES = 8192
POSTGRES_LSN_BYTES = 8
"""A page that says it is newer than the log cannot be written any more, and Postgres stops making checkpoints."""
POSTGRES_HEADER_BYTES = 24
"""Behind the header there are pointers to the rows, which stand at the end: Postgres' "Database Page Layout"."""


class File:
    """A database file of SQLite's, and copies of it with damage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sound = folder / "sound.db"
        self.url = f"sqlite:///{self._sound}"

    @property
    def page_bytes(self) -> int:
        return int.from_bytes(self._sound.read_bytes()[16:18], "big")

    @property
    def pages(self) -> int:
        return self._sound.stat().st_size // self.page_bytes

    def root_page(self, table: str) -> int:
        """Where a table begins; pages count from 0 here."""
        with closing(sqlite3.connect(self._sound)) as connection:
            (found,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        return int(found) - 1

    def damaged(self, page: int, within: int, bit: int) -> str:
        """The URL of a copy in which one bit of a page is another."""
        for left in self._folder.glob("damaged.db*"):
            left.unlink()
        copy = Path(shutil.copyfile(self._sound, self._folder / "damaged.db"))
        _flip(copy, page * self.page_bytes + within, bit)
        return f"sqlite:///{copy}"


def _flip(file: Path, where: int, bit: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(where)
        (byte,) = opened.read(1)
        opened.seek(where)
        opened.write(bytes((byte ^ 1 << bit,)))


async def test_a_bit_of_a_page_that_is_another_is_told_as_damage_and_nothing_wrong_is_handed_out(
    trial: Trial, tmp_path: Path
) -> None:
    file = File(tmp_path)
    filled = await Filled.store(file.url)
    flips = trial.rounds(short=10, long=300)
    for number in range(flips):
        # Not the schema and its revision, without which no server starts, nor the store's id, which has no digest.
        page = trial.random.randrange(4, file.pages)
        # Every other one where it matters most.
        within = trial.random.randrange(SQLITE_HEADER_BYTES if number % 2 else file.page_bytes)
        url = file.damaged(page, within, trial.random.randrange(8))
        await filled.meet(url, trial.random.choice(RUNTIMES), f"page {page}, byte {within}")
    trial.record(flipped_bits=flips, **filled.counted)
    assert filled.wrong == []


_FILES = """
SELECT pg_relation_filepath(relation.oid) FROM pg_class AS relation
LEFT JOIN pg_index ON indexrelid = relation.oid
JOIN pg_class AS of_table ON of_table.oid = coalesce(indrelid, relation.oid)
WHERE of_table.relname = ANY (%s) ORDER BY relation.relname
"""


def _files(server: PostgresServer, url: str) -> list[Path]:
    """The files of the store's tables and their indexes, as large as they are."""
    names = [table.name for table in tables.metadata.sorted_tables if table is not tables.store_identity]
    with psycopg.connect(url) as connection:
        return [server.data / file for (file,) in connection.execute(_FILES, (names,))]


async def test_a_bit_of_a_page_of_a_postgres_without_checksums_is_told_as_damage_too(trial: Trial) -> None:
    rounds, at_once = trial.rounds(short=1, long=10), trial.rounds(short=4, long=15)
    counted: Counter[str] = Counter()
    wrong: list[str] = []
    for _ in range(rounds):
        with PostgresServer() as server:
            template = Cluster(server.url).fresh_database()
            filled = await Filled.store(template)
            copies = [_copy(server, template) for _ in range(at_once)]
            files = {url: _files(server, url) for url in copies}
            server.stop()  # it has pages in memory
            damages = {url: _damage(trial, files[url]) for url in copies}
            server.start()
            for url, damage in damages.items():
                await filled.meet(url, trial.random.choice(RUNTIMES), damage)
                if not _is_ready_again(server):
                    filled.counted["engine gone for good"] += 1
                    break
            counted += filled.counted
            wrong += filled.wrong
    trial.record(flipped_bits=rounds * at_once, **counted)
    assert wrong == []


def _is_ready_again(server: PostgresServer) -> bool:
    """Wait until it takes connections: damage may end a process of its, and then it begins anew, if it can."""
    try:
        server.wait_until_ready()
    except NoPostgres:
        server.stop("kill")
        return False
    return True


def _copy(server: PostgresServer, template: str) -> str:
    name = f"damaged_{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {make_url(template).database}")
    return Cluster(server.url).url(name)


def _damage(trial: Trial, files: list[Path]) -> str:
    """Change one bit, as likely in a page's header, in its row pointers or in its rows; what was done."""
    file = trial.random.choice([file for file in files if file.stat().st_size])
    start = trial.random.randrange(file.stat().st_size // POSTGRES_PAGE_BYTES) * POSTGRES_PAGE_BYTES
    lower, upper = struct.unpack_from("=HH", file.read_bytes(), start + 12)
    parts = [(POSTGRES_LSN_BYTES, POSTGRES_HEADER_BYTES), (POSTGRES_HEADER_BYTES, lower), (upper, POSTGRES_PAGE_BYTES)]
    first, end = trial.random.choice([part for part in parts if part[0] < part[1] <= POSTGRES_PAGE_BYTES])
    within, bit = trial.random.randrange(first, end), trial.random.randrange(8)
    _flip(file, start + within, bit)
    return f"{file.name}, page {start // POSTGRES_PAGE_BYTES}, byte {within}, bit {bit}"


LOADS: dict[str, Callable[[Store, str], Awaitable[Any]]] = {
    "runtimes": lambda store, runtime_id: store.load_runtime_state(runtime_id),
    "session_versions": lambda store, runtime_id: store.load_session_snapshot(runtime_id),
    "inputs": lambda store, runtime_id: store.load_input_states(runtime_id),
    "receipts": lambda store, runtime_id: store.load_boundary_receipt(runtime_id, id_of("a"), 0),
    "ops_snapshots": lambda store, runtime_id: store.load_ops_lifecycle(runtime_id),
}


@pytest.mark.parametrize("table", LOADS)
async def test_two_rows_under_one_key_are_damage_to_who_reads_them(
    serve: Callable[..., AbstractAsyncContextManager[Application]], runtime_id: str, table: str
) -> None:
    async with serve() as app, Store(app.address, retry=ONCE) as store:
        for write in RUNTIME_WRITES:
            await write(store, runtime_id, "a")
        with app.store.database.writers.begin() as connection:
            # A damaged index lets them come about. The copy of a table has none.
            connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO once")
            connection.exec_driver_sql(f"CREATE TABLE {table} AS SELECT * FROM once UNION ALL SELECT * FROM once")  # noqa: S608  (a name from here)

        for name, load in LOADS.items():
            if table in (name, "runtimes"):  # every load looks at the runtime's row
                with pytest.raises(StoredValueCorrupt) as found:
                    await load(store, runtime_id)
                assert is_told(found.value)
            else:
                assert await load(store, runtime_id)


async def test_a_write_that_meets_a_damaged_page_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    file = File(tmp_path)
    await Filled.store(file.url)
    url = file.damaged(file.root_page("ops_snapshots"), 0, 7)
    async with in_process(url) as app, Store(app.address, retry=ONCE) as store:
        with held_commits(app) as go_on:
            calls = [
                store.persist_ops_lifecycle(RUNTIMES[0], ops()),
                *(store.persist_input_state(runtime_id, input_of("b")) for runtime_id in RUNTIMES[1:5]),
            ]
            answers = asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: app.store._committer.waiting_writes == len(calls))
            go_on.set()
            refusal, *landed = await answers

    assert isinstance(refusal, StoredValueCorrupt)
    assert is_told(refusal)
    assert refusal.metadata.items() >= {"table": "unknown", "store_error": "write_failed"}.items()
    assert {type(answer).__name__ for answer in landed} == {"Commit"}
