"""Damage in any column of any row: whoever meets it is told which row it is, or is answered as if it were sound."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest
import sqlalchemy as sa

from runtimestore import Fenced, RetryPolicy, RuntimeStoreError, StoredValueCorrupt
from runtimestore_server.store import tables
from support.checkers.damaged_files import loads
from support.generators.calls import RUNTIME_WRITES, Store, input_of, named
from support.generators.documents import new_id
from support.servers.database import change
from support.servers.engines import DURABLE, UNTYPED_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runtimestore import Commit
    from runtimestore_server.app import Application
    from support.checkers.torture import Trial
    from support.servers.engines import Engine

    Call = Callable[[], Awaitable[Any]]

AT_ONCE = 8
"""Several at once, so that what is damaged shares a transaction with what is sound."""

FIRST, SECOND, THIRD = "host-a", "host-b", "host-c"
TABLES = tuple(table for table in tables.metadata.sorted_tables if table is not tables.store_identity)

# What a column may hold after damage. Where it keeps values of any type, that may be anything.
NO_TEXT = (b"\xff\xfe", b"a\xff", b"")
UNTYPED = (
    "X''", "X'00ff'", "'a' || char(0) || 'b'", "'text'", "0", "-7", "1.5", "-1e300", "9e999", "9223372036854775807",
    "-9223372036854775808", "hex(zeroblob(3000))", "replace(hex(zeroblob(2000)), '0', '😀')",
)  # fmt: skip
TYPED: dict[type[Any], tuple[str, ...]] = {
    sa.Text: ("'text'", "repeat('x', 2000)", "repeat('😀', 600)"),
    tables.UInt64: ("'text'", "'-1'", "'99999999999999999999'"),
    sa.BigInteger: ("0", "-1", "9223372036854775807", "-9223372036854775808"),
    sa.LargeBinary: ("''::bytea", "decode('00ff', 'hex')", "decode(repeat('00', 1000), 'hex')"),
}


class Damage(NamedTuple):
    """A column and what it holds afterwards."""

    column: sa.Column[Any]
    value: sa.ColumnElement[Any]

    def __str__(self) -> str:
        return f"{self.column} = {str(self.value)[:50]}"


def _damages(engine: Engine, app: Application, column: sa.Column[Any]) -> list[Damage]:
    untyped = UNTYPED_COLUMNS in engine.capabilities
    values: list[sa.ColumnElement[Any]] = [
        sa.literal_column(value) for value in (UNTYPED if untyped else TYPED[type(column.type)])
    ]
    if untyped or isinstance(column.type, (sa.Text, tables.UInt64)):
        values += [engine.text_of(app.store.database, raw) for raw in NO_TEXT]
    return [Damage(column, value) for value in values]


class World:
    """A runtime with a row in every table, those who drive it, and what its loads answer while nothing is damaged."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.realm = f"test-{new_id()}"
        self.runtime_id = name = f"rt:session:{new_id()}"
        self.remembered = new_id()
        self.unfenced, self.older, self.newest = (
            Store(app.address, realm=self.realm, retry=RetryPolicy(max_attempts=1)) for _ in range(3)
        )
        store = self.unfenced
        self.loads = loads(store, name)
        self.writes: dict[str, Call] = {
            "repeat": self._remember,
            "older": lambda: self.older.persist_input_state(name, input_of("b")),
            "newest": lambda: self.newest.persist_input_state(name, input_of("b")),
            "acquire": lambda: self.unfenced.acquire_runtime(name, THIRD),
            "acquire again": lambda: self.newest.acquire_runtime(name, THIRD),
            "newest again": lambda: self.newest.persist_input_state(name, input_of("c")),
            "persist oauth": lambda: store.persist_auth_oauth_flow_snapshot(b"other"),
            "update oauth": lambda: store.update_auth_oauth_flow_snapshot(lambda _: b"another"),
            **{named(write): partial(write, self.newest, name, "b") for write in RUNTIME_WRITES},
        }

    async def __aenter__(self) -> Self:
        for write in RUNTIME_WRITES:
            await write(self.unfenced, self.runtime_id, "a")
        await self._remember()
        await self.unfenced.persist_auth_oauth_flow_snapshot(b"flow")
        for client, owner in ((self.older, FIRST), (self.newest, SECOND)):
            await client.acquire_runtime(self.runtime_id, owner)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in (self.unfenced, self.older, self.newest):
            await client.close()

    async def _remember(self) -> Commit:
        return await self.unfenced.persist_input_state(self.runtime_id, input_of("a"), request_id=self.remembered)

    async def damage(self, damage: Damage) -> None:
        """Write into the one row."""
        table = damage.column.table
        assert isinstance(table, sa.Table)
        whole = {
            "realm": self.realm,
            "runtime_id": self.runtime_id,
            "request_id": self.remembered,
            "input_id": input_of("").input_id,
        }
        key = {name: value for name, value in whole.items() if name in table.c}
        await change(self.app, table, {damage.column.name: damage.value}, **key)

    async def counts(self) -> list[Any]:
        """What counts the writes of each kind, as it is stored."""

        def read() -> list[Any]:
            counts = (tables.runtimes.c.revision, tables.fences.c.fence, tables.oauth_flow_snapshots.c.version)
            with self.app.store.database.readers.connect() as connection:
                return [
                    connection.execute(
                        sa.select(sa.type_coerce(count, sa.types.NullType())).where(count.table.c.realm == self.realm)
                    ).all()
                    for count in counts
                ]

        return await asyncio.to_thread(read)


async def _wrong(world: World, damage: Damage, counted: Counter[str]) -> list[str]:
    """What is answered otherwise than it should be."""
    sound = {name: await load() for name, load in world.loads.items()}
    await world.damage(damage)
    wrong = []
    key_is_damaged = damage.column.primary_key
    for name, call in world.loads.items():
        answer = await _answer(call, counted)
        less = key_is_damaged and _is_less(answer, sound[name])
        if not (answer == sound[name] or less or _names(answer, world, damage)):
            wrong.append(f"{damage} {name}: {answer!r}")
    before = await world.counts()
    for name, call in world.writes.items():
        answer = await _answer(call, counted)
        after = await world.counts()
        refused = isinstance(answer, RuntimeStoreError)
        fenced = isinstance(answer, Fenced) and (name == "older" or key_is_damaged)
        if refused and not (fenced or _names(answer, world, damage)):
            wrong.append(f"{damage} {name}: {answer!r}")
        if refused and after != before:
            wrong.append(f"{damage} {name}: refused, but {before} became {after}")
        before = after
    for name, call in world.loads.items():
        answer = await _answer(call, counted)
        if isinstance(answer, RuntimeStoreError) and not _names(answer, world, damage):
            wrong.append(f"{damage} {name} at last: {answer!r}")
    return wrong


async def _answer(call: Call, counted: Counter[str]) -> Any:
    try:
        answer = await call()
    except RuntimeStoreError as refusal:
        counted[refusal.reason or refusal.code.name] += 1
        return refusal
    counted["OK"] += 1
    return answer


def _names(answer: object, world: World, damage: Damage) -> bool:
    """Whether it is the refusal of damage, and says which row it is."""
    if not isinstance(answer, StoredValueCorrupt) or answer.store_error != "read_failed":
        return False
    table = damage.column.table
    row = {"table": table.name, "realm": world.realm}
    if "runtime_id" in table.primary_key.columns:
        row["runtime_id"] = world.runtime_id
    return row.items() <= answer.metadata.items()


def _is_less(answer: Any, sound: Any) -> bool:
    """Whether it is what a load finds without the row whose key is damaged."""
    if isinstance(answer, list):
        return all(item in sound for item in answer)
    return answer is None


@pytest.mark.needs(DURABLE)
async def test_whoever_meets_a_damaged_column_is_told_its_row_and_a_refused_write_leaves_nothing(
    trial: Trial, app: Application, engine: Engine
) -> None:
    damages: list[Damage] = []
    for column in (column for table in TABLES for column in table.columns):
        found = _damages(engine, app, column)
        damages += trial.random.sample(found, trial.rounds(short=1, long=len(found)))
    counted: Counter[str] = Counter()
    wrong: list[str] = []
    left = iter(damages)

    async def damaged() -> None:
        for damage in left:
            async with World(app) as world:
                wrong.extend(await _wrong(world, damage, counted))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(damaged())

    trial.record(damaged_columns=len(damages), **counted)
    assert wrong == []
