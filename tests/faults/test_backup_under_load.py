"""A backup of a large store that is being written to ends, is one moment, and passes verify."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.schema import upgrade
from support.generators.calls import Store
from support.generators.documents import new_id, session
from support.servers.command import run
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from support.checkers.torture import Trial

pytestmark = pytest.mark.usefixtures("runner")

WRITES_A_SECOND = 35
DOCUMENT_BYTES = 1_000_000


async def test_a_backup_of_a_large_store_ends_though_it_is_written_to_all_the_while(
    trial: Trial, tmp_path: Path
) -> None:
    megabytes = trial.rounds(short=30, long=600)
    url = f"sqlite:///{tmp_path}/store.db"
    upgrade(url)
    body = "x" * DOCUMENT_BYTES
    with ServerProcess(url) as server:
        async with Store(server.address) as store:
            for number in range(megabytes):
                await store.commit_session_snapshot(f"rt:large:{number}", session(body, session_id=new_id()))
            writing = asyncio.create_task(_write_on(store))
            started = time.monotonic()
            done = await asyncio.to_thread(
                run, "backup", str(tmp_path / "a.backup"), "--database-url", url, cwd=tmp_path
            )
            seconds = time.monotonic() - started
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing

    assert done.returncode == 0, done.stderr
    restored = run("restore", "a.backup", "--database-url", f"sqlite:///{tmp_path}/copy.db", cwd=tmp_path)
    assert restored.returncode == 0, restored.stderr
    checked = run("verify", "--json", "--database-url", f"sqlite:///{tmp_path}/copy.db", cwd=tmp_path)
    assert json.loads(checked.stdout)["findings"] == []
    trial.record(megabytes=megabytes, writes_a_second=WRITES_A_SECOND, backup_seconds=round(seconds, 1))


async def _write_on(store: Store) -> None:
    """Small snapshots of fifty runtimes at an even pace."""
    number = 0
    while True:
        number += 1
        await store.commit_session_snapshot(f"rt:{number % 50}", session("x" * 20_000, session_id=new_id()))
        await asyncio.sleep(1 / WRITES_A_SECOND)
