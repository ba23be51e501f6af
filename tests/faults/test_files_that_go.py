"""What a write is told whose file goes while it is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runtimestore import CommitOutcomeUnknown, StoreUnavailable
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from support.generators.calls import Store, input_of
from support.generators.documents import new_id
from support.generators.turns import ONCE
from support.servers.listening import listening
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Connection

ID = new_id()


async def test_a_write_whose_file_goes_in_the_midst_of_its_commit_is_told_that_its_outcome_is_unknown(
    tmp_path: Path,
) -> None:
    file, elsewhere = tmp_path / "store.db", tmp_path / "elsewhere.db"
    upgrade(f"sqlite:///{file}")
    async with in_process(f"sqlite:///{file}") as app, Store(app.address, retry=ONCE) as store:
        await store.persist_input_state("rt:a", input_of("a"))

        def strike(connection: Connection) -> None:
            asked = "SELECT count(*) FROM requests WHERE request_id = ?"
            if connection.exec_driver_sql(asked, (ID,)).scalar_one():  # else it is one of maintenance
                file.rename(elsewhere)

        with listening(app.store.database.writers, commit=strike), pytest.raises(CommitOutcomeUnknown):
            await store.persist_input_state("rt:a", input_of("b"), request_id=ID)
        assert not file.exists()  # nobody made a new one
        with pytest.raises(StoreUnavailable):
            await store.persist_input_state("rt:a", input_of("b"), request_id=ID)

        elsewhere.rename(file)
        assert (await store.persist_input_state("rt:a", input_of("b"), request_id=ID)).replayed


async def test_a_write_that_fails_while_its_file_goes_is_told_so_and_not_of_damage(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "store.db", tmp_path / "elsewhere.db"
    upgrade(f"sqlite:///{file}")
    async with in_process(f"sqlite:///{file}") as app, Store(app.address, retry=ONCE) as store:
        await store.persist_input_state("rt:a", input_of("a"))

        damage = sqlite3.DatabaseError("database disk image is malformed")
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

        def strike(_connection: Connection, _cursor: object, text: str, *_: object) -> None:
            if text.startswith("INSERT INTO requests") and file.exists():
                file.rename(elsewhere)
                raise damage

        replaced = pytest.raises(StoreUnavailable, match=r"removed, moved or written over")
        with listening(app.store.database.writers, before_cursor_execute=strike), replaced:
            await store.persist_input_state("rt:a", input_of("b"), request_id=ID)

        elsewhere.rename(file)
        assert not (await store.persist_input_state("rt:a", input_of("b"), request_id=ID)).replayed
