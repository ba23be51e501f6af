"""Disks that are full or take no writes: refused by name, nothing lost, and no restart needed afterwards."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from runtimestore import StoreReadOnly
from runtimestore_server.store.schema import upgrade
from support.faults.disk import MIB, immutable, limited_file_size, small_disk, unwritable
from support.faults.preload import compiled
from support.generators.calls import Store, input_of
from support.generators.turns import ONCE, Turns, counted, refusals
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from pathlib import Path

    from support.checkers.torture import Trial

pytestmark = [pytest.mark.usefixtures("runner"), pytest.mark.root]


def _database(folder: Path) -> Path:
    file = folder / "store.db"
    upgrade(f"sqlite:///{file}")
    return file


async def test_a_full_disk_refuses_by_name_keeps_what_was_acknowledged_and_needs_no_restart(
    trial: Trial, tmp_path: Path
) -> None:
    rounds = trial.rounds(short=3, long=30)
    writers = [Turns(f"rt:{name}", size_bytes=size) for name, size in enumerate((500, 40_000, 200_000))]
    with small_disk(tmp_path / "disk", size_bytes=64 * MIB) as disk, counted(trial, writers):
        database = _database(disk.folder)
        with ServerProcess(f"sqlite:///{database}") as server:
            async with Store(server.address, retry=ONCE) as store:
                for _ in range(rounds):
                    for writer in writers:
                        assert await writer.take(store)
                    disk.fill(leave_bytes=trial.random.randrange(MIB // 2))
                    await _until_all_are_refused(store, writers)
                    for writer in writers:
                        await writer.check(store, last_turns=2)  # loads go on
                    disk.make_room()
                    for writer in writers:
                        assert await writer.take(store)  # the turn that was refused, under its request id
                disk.fill(leave_bytes=trial.random.randrange(MIB // 2))
                await _until_all_are_refused(store, writers)
                server.kill()
        with ServerProcess(f"sqlite:///{database}") as server:  # on the full disk
            async with Store(server.address) as store:
                for writer in writers:
                    await writer.check(store)
                disk.make_room()
                for writer in writers:
                    assert await writer.take(store)
    reasons = refusals(writers)
    assert set(reasons) == {"STORE_FULL"}
    trial.record(rounds=rounds, refused_as_full=reasons["STORE_FULL"])


async def _until_all_are_refused(store: Store, writers: list[Turns]) -> None:
    """Take turns until there is no room for the smallest."""
    for writer in sorted(writers, key=lambda writer: -writer._size_bytes):
        await writer.until_refused(store)


async def test_a_log_that_cannot_grow_refuses_the_write_whole_and_takes_it_when_it_can(
    trial: Trial, tmp_path: Path
) -> None:
    rounds = trial.rounds(short=3, long=60)
    database = _database(tmp_path)
    writer = Turns("rt:limit", size_bytes=300_000)
    with ServerProcess(f"sqlite:///{database}") as server:
        async with Store(server.address, retry=ONCE) as store:
            for _ in range(rounds):
                assert await writer.take(store)
                log_bytes = (tmp_path / "store.db-wal").stat().st_size
                limit = trial.random.randrange(4096, max(log_bytes, 8192))
                with limited_file_size(server._process.pid, limit):
                    await writer.until_refused(store)
                    await writer.check(store, last_turns=2)
                assert await writer.take(store)
            server.kill()
    async with in_process(f"sqlite:///{database}") as app, Store(app.address) as store:
        await writer.check(store)
    assert set(writer.refusals) == {"STORE_FULL"}
    trial.record(rounds=rounds, acknowledged_turns=writer.acknowledged, refused=sum(writer.refusals.values()))


async def test_a_quota_that_is_used_up_refuses_as_full_and_takes_the_write_when_there_is_room(tmp_path: Path) -> None:
    database = _database(tmp_path)
    used_up = tmp_path / "used-up"
    preloaded = {"LD_PRELOAD": str(compiled("full_quota.c", tmp_path)), "FULL_QUOTA": str(used_up)}
    writer = Turns("rt:quota")
    with ServerProcess(f"sqlite:///{database}", environment=preloaded) as server:
        async with Store(server.address, retry=ONCE) as store:
            for _ in range(3):
                assert await writer.take(store)
                used_up.touch()
                for _ in range(3):
                    assert not await writer.take(store)
                    await writer.check(store)
                used_up.unlink()
                assert await writer.take(store)
            server.kill()
    async with in_process(f"sqlite:///{database}") as app, Store(app.address) as store:
        await writer.check(store)
    assert set(writer.refusals) == {"STORE_FULL"}


async def test_a_file_that_cannot_be_written_is_read_only_and_is_written_again_without_a_restart(
    trial: Trial, tmp_path: Path
) -> None:
    rounds = trial.rounds(short=2, long=20)
    database = _database(tmp_path)
    writer = Turns("rt:read-only")
    refused = 0
    for _ in range(rounds):
        with contextlib.ExitStack() as locked:
            locked.enter_context(unwritable(database))
            # It opens the file while that cannot be written; then nothing but the file itself changes.
            with ServerProcess(f"sqlite:///{database}") as server:
                async with Store(server.address, retry=ONCE) as store:
                    for _ in range(5):
                        with pytest.raises(StoreReadOnly) as found:
                            await store.persist_input_state("rt:other", input_of("a"))
                        assert found.value.store_error == "write_failed"
                        await writer.check(store)
                        refused += 1
                    locked.close()
                    assert await writer.take(store)
                    await writer.check(store)
    trial.record(rounds=rounds, refused_as_read_only=refused, acknowledged_turns=writer.acknowledged)


async def test_a_file_that_becomes_read_only_under_the_server_refuses_by_name_and_is_written_again(
    trial: Trial, tmp_path: Path
) -> None:
    rounds = trial.rounds(short=3, long=60)
    database = _database(tmp_path)
    writer = Turns("rt:read-only")
    with ServerProcess(f"sqlite:///{database}") as server:
        async with Store(server.address, retry=ONCE) as store:
            for _ in range(rounds):
                assert await writer.take(store)
                with immutable(database, tmp_path / "store.db-wal"):
                    for _ in range(3):
                        assert not await writer.take(store)
                        await writer.check(store, last_turns=2)
                assert await writer.take(store)
            server.kill()
    async with in_process(f"sqlite:///{database}") as app, Store(app.address) as store:
        await writer.check(store)
    # The log was open: there COMMIT meets the fault, in a word of SQLite's that leaves the outcome open.
    assert set(writer.refusals) <= {"STORE_READ_ONLY", "COMMIT_OUTCOME_UNKNOWN"}
    trial.record(rounds=rounds, acknowledged_turns=writer.acknowledged, refused=sum(writer.refusals.values()))
