"""`verify` finds damage of each kind, planted past the server, in its row and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.store import tables
from runtimestore_server.verify import Severity
from support.checkers.verified import fill, verified
from support.faults.stored_damage import DAMAGE
from support.generators.calls import Store
from support.servers.database import rows
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from support.servers.engines import Engine

pytestmark = pytest.mark.needs(DURABLE)


@pytest.fixture(scope="module")
def sound(runner: asyncio.Runner, engine: Engine) -> Iterator[str]:
    """A database in which nothing is wrong, with rows in every table."""
    url = engine.fresh_url()

    async def filled() -> None:
        async with in_process(url) as app, Store(app.address) as store:
            await fill(store)
            assert (await verified(app)).findings == []

    runner.run(filled())
    yield url
    engine.drop(url)


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_found_in_its_row_and_nowhere_else(engine: Engine, sound: str, damage: str) -> None:
    plant, kind, table, key = DAMAGE[damage]
    url = engine.copy(sound)
    async with in_process(url) as app:
        await plant(app)

        told = await verified(app)
        (found,) = told.findings
        assert (found.kind, found.table, found.severity) == (kind, table, Severity.ERROR)
        assert {name: found.key[name] for name in key} == key
        assert told.rows["inputs"] == len(await rows(app, tables.inputs))
    engine.drop(url)


async def test_every_finding_is_told_however_many_there_are(serve: Any) -> None:
    planted = {
        *("a snapshot", "a digest", "a receipt", "an ops document", "an oauth snapshot", "a state", "a fence"),
        *("the store's id", "a session without a runtime", "a remembered answer"),
    }
    async with serve() as app, Store(app.address) as store:
        await fill(store)
        for damage in planted:
            plant, *_ = DAMAGE[damage]
            await plant(app)

        told = await verified(app)

    assert told.report is not None
    assert (told.report.errors, told.report.warnings) == (len(told.findings), 0)
    found = [(found.kind, found.table) for found in told.findings]
    assert sorted(found) == sorted((kind, table) for _, kind, table, _ in (DAMAGE[damage] for damage in planted))
