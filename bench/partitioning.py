"""Try partitioning on copies of one store: `python -m bench.partitioning`, on a Postgres of its own.

A store is filled by the store's own commits and copied as a database. In each copy the large tables are made anew,
partitioned; a server is started on it, and `runtimestore verify` looks at every row. Then the store's own statements
run on all of them in turn, round after round: batches of boundaries on runtimes that are there, loads of sessions and
loads of inputs. Every ratio is taken within a round. Writes nothing but its report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import uuid
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import sql

from bench.postgres import MeasuredPostgres
from examples.recovery.server_process import ServerProcess
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents import receipt as documents_receipt
from runtimestore_server.documents import session as documents_session
from runtimestore_server.store import RuntimeKey, Write, reads, tables
from runtimestore_server.store.commit_gate import CommitStop
from runtimestore_server.store.engines import open_database
from runtimestore_server.store.schema import upgrade
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.store.values import InputDocument, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

LARGE = (tables.session_versions, tables.inputs, tables.receipts)
"""The tables that grow with every turn, and have the realm and the runtime in their keys."""

PLAIN, BY_HASH, BY_REALM = "plain", "hash", "realm"

FILLED_AT_ONCE = 100

TIME = {"secs_since_epoch": 1_767_225_600, "nanos_since_epoch": 0}


class Store(NamedTuple):
    """One of the databases that are compared."""

    layout: str
    url: str
    database: Database


class Documents:
    """The documents of a runtime that lives on: a session, and inputs of which one changes with each boundary."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._inputs, self._snapshot_bytes, self._input_bytes = (
            arguments.inputs_each,
            arguments.snapshot_bytes,
            arguments.input_bytes,
        )
        self.runtimes = [
            RuntimeKey(f"realm-{number % arguments.realms}", f"rt:bench:{number:08d}")
            for number in range(arguments.runtimes)
        ]

    def boundary(self, runtime: RuntimeKey, turn: int) -> Write:
        """The write of a boundary, in which the whole session and every input is sent."""
        session_id, run_id = _id(runtime, "session"), str(uuid.uuid4())
        body = {
            "version": 2,
            "id": session_id,
            "messages": [{"role": "user", "content": os.urandom(self._snapshot_bytes // 2).hex()}],
            "created_at": TIME,
            "updated_at": TIME,
            "metadata": {"turn": turn},
            "usage": {"input_tokens": 3, "output_tokens": 4},
        }
        inputs = tuple(self._input(runtime, number, turn) for number in range(self._inputs))
        receipt = pb.RunBoundaryReceipt(
            run_id=run_id,
            boundary=pb.RUN_APPLY_BOUNDARY_RUN_START,
            contributing_input_ids=[one.input_id for one in inputs[:1]],
            message_count=1,
        )
        return Write(
            runtime,
            request_id=str(uuid.uuid4()),
            snapshot=documents_session.check(json.dumps(body).encode()),
            receipt=documents_receipt.check(receipt),
            inputs=inputs,
        )

    def _input(self, runtime: RuntimeKey, number: int, turn: int) -> InputDocument:
        input_id, newest = _id(runtime, f"input {number}"), turn if number == 0 else 0
        text = f"{number} {newest} ".ljust(self._input_bytes - 100, "x")
        state = json.dumps({"input_id": input_id, "current_state": "queued", "text": text}).encode()
        return InputDocument(input_id, state, sha256(state).digest())


def _id(runtime: RuntimeKey, what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{runtime.realm} {runtime.runtime_id} {what}"))


def commit(store: Store, batch: Sequence[Write]) -> None:
    """Commit a batch as the commit thread does.

    Raises:
        RuntimeError: not all of it landed.
    """
    decisions, _ = commit_batch(store.database, batch, CommitStop().gate())
    if refused := [one for one in decisions if not isinstance(one, Outcome)]:
        raise RuntimeError(f"{store.layout}: {refused[0]!r}")


def partition(url: str, layout: str, *, partitions: int, realms: int) -> None:
    """Make the large tables of a database anew, partitioned, with all that is in them."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in LARGE:
            name, old = sql.Identifier(table.name), sql.Identifier(f"{table.name}_before")
            by = "HASH (realm, runtime_id)" if layout == BY_HASH else "LIST (realm)"
            connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(name, old))
            connection.execute(
                sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL) PARTITION BY ").format(name, old) + sql.SQL(by)
            )
            parents = [(table.name, "")]
            if layout == BY_REALM:
                parents = [(f"{table.name}_{realm}", f"realm-{realm}") for realm in range(realms)]
                for parent, realm in parents:
                    connection.execute(
                        sql.SQL(
                            "CREATE TABLE {} PARTITION OF {} FOR VALUES IN ({}) PARTITION BY HASH (runtime_id)"
                        ).format(sql.Identifier(parent), name, sql.Literal(realm))
                    )
            for parent, _ in parents:
                for number in range(partitions):
                    connection.execute(
                        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {})").format(
                            sql.Identifier(f"{parent}_p{number}"),
                            sql.Identifier(parent),
                            sql.Literal(partitions),
                            sql.Literal(number),
                        )
                    )
            connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM {}").format(name, old))
            connection.execute(sql.SQL("DROP TABLE {}").format(old))


def look(store: Store) -> str:
    """What a server and `runtimestore verify` say to a database."""
    with ServerProcess.serve(store.url, "--metrics-listen", "") as server:
        server.wait_until_ready()
        server.stop()
    command = [sys.executable, "-m", "runtimestore_server", "verify", "--database-url", store.url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - arguments of our own
    return f"{store.layout}: a server starts on it, and verify exits with {done.returncode}"


def measured(store: Store, documents: Documents, arguments: argparse.Namespace, turn: int) -> dict[str, float]:
    """Microseconds of each kind of work in one round."""
    chance = random.Random(turn)  # noqa: S311 - the same runtimes for each database

    def boundaries() -> tuple[int, float]:
        chosen = chance.sample(documents.runtimes, arguments.batch)
        batch = [documents.boundary(runtime, turn) for runtime in chosen]
        return len(batch), _seconds(lambda: commit(store, batch))

    def session() -> tuple[int, float]:
        runtime = chance.choice(documents.runtimes)
        return 1, _seconds(lambda: _read(store, documents_session.load, runtime))

    def inputs() -> tuple[int, float]:
        runtime = chance.choice(documents.runtimes)
        return 1, _seconds(lambda: _read(store, reads.load_input_states, runtime))

    kinds = {"a boundary": boundaries, "a session": session, "inputs": inputs}
    return {kind: _microseconds(work, arguments.seconds) for kind, work in kinds.items()}


def _read(store: Store, load: Callable[[Connection, RuntimeKey], object], runtime: RuntimeKey) -> None:
    with store.database.readers.connect() as connection:
        load(connection, runtime)


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _microseconds(work: Callable[[], tuple[int, float]], seconds: float) -> float:
    work()  # plans are made, and what is cold is read
    number, spent = 0, 0.0
    while spent < seconds:
        done, more = work()
        number, spent = number + done, spent + more
    return spent / number * 1e6


def main(command_line: Sequence[str]) -> int:
    """Fill, copy, partition, measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.partitioning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtimes", type=int, default=20_000, help="how many, each with one session")
    parser.add_argument("--inputs-each", type=int, default=10)
    parser.add_argument("--realms", type=int, default=4)
    parser.add_argument("--snapshot-bytes", type=int, default=6_000)
    parser.add_argument("--input-bytes", type=int, default=1_300)
    parser.add_argument("--partitions", type=int, default=16, help="by hash; of each realm, where realms are split too")
    parser.add_argument("--batch", type=int, default=20, help="writes in a transaction")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each kind of work is done in a round")
    parser.add_argument("--postgres-url", help="a server to use; without it one is started")
    parser.add_argument("--json", action="store_true", help="print all that was measured as JSON at the end")
    arguments = parser.parse_args(command_line)
    documents = Documents(arguments)
    with MeasuredPostgres.found(arguments.postgres_url) as postgres:
        stores = _stores(postgres, documents, arguments)
        try:
            for store in stores:
                print(look(store))  # noqa: T201 - the report
            rounds = [
                {store.layout: measured(store, documents, arguments, turn) for store in stores}
                for turn in range(1, arguments.rounds + 1)
            ]
        finally:
            for store in stores:
                store.database.dispose()
        print(f"Postgres: {postgres.facts()}; load of the machine now: {os.getloadavg()}")  # noqa: T201 - the report
    _print(rounds)
    if arguments.json:
        print(json.dumps(rounds))  # noqa: T201 - the report
    return 0


def _stores(postgres: MeasuredPostgres, documents: Documents, arguments: argparse.Namespace) -> list[Store]:
    """The databases, filled alike and with as little dead in them."""
    first = postgres.fresh_database()
    upgrade(first)
    database = open_database(first, committer_threads=1, reader_threads=1)
    plain, began = Store(PLAIN, first, database), time.monotonic()
    for start in range(0, len(documents.runtimes), FILLED_AT_ONCE):
        commit(plain, [documents.boundary(one, 0) for one in documents.runtimes[start : start + FILLED_AT_ONCE]])
    print(f"filled with {len(documents.runtimes)} runtimes in {time.monotonic() - began:.0f} s")  # noqa: T201 - the report
    database.dispose()  # a database is copied while nobody is connected to it
    urls = {PLAIN: first} | {layout: postgres.copy(first) for layout in (BY_HASH, BY_REALM)}
    for layout, url in urls.items():
        if layout != PLAIN:
            partition(url, layout, partitions=arguments.partitions, realms=arguments.realms)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM (FULL, ANALYZE)")
            connection.execute("CHECKPOINT")
    return [
        Store(layout, url, open_database(url, committer_threads=1, reader_threads=1)) for layout, url in urls.items()
    ]


def _print(rounds: list[dict[str, dict[str, float]]]) -> None:
    """Print medians, and ratios to the plain tables in the same round."""
    print(f"{'':14}" + "".join(f"{layout:>32}" for layout in rounds[0]))  # noqa: T201 - the report
    for kind in rounds[0][PLAIN]:
        columns = []
        for layout in rounds[0]:
            ratios = sorted(one[layout][kind] / one[PLAIN][kind] for one in rounds)
            middle = statistics.median(one[layout][kind] for one in rounds)
            columns.append(f"{middle:8.0f} us, {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        print(f"{kind:14}" + "".join(f"{column:>32}" for column in columns))  # noqa: T201 - the report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
