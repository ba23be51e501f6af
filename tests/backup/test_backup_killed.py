"""A backup that is killed at any of its steps leaves a whole file or none, and the store as it was."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient
from runtimestore_server.backup import create, restore
from support.checkers.progress import Nobody
from support.faults.killed_commands import run_killed_after
from support.generators.documents import session
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.engines import Engine

pytestmark = pytest.mark.usefixtures("runner")

SESSION = session("kept")
MOST_STEPS = 60

CALLS = ("rename", "replace", "link", "unlink", "open", "fsync")


@pytest.mark.needs(DURABLE)
async def test_a_backup_that_is_killed_at_any_step_leaves_a_whole_file_or_none(engine: Engine, tmp_path: Path) -> None:
    url, backup, steps = engine.fresh_url(), tmp_path / "a.backup", 0
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        await store.commit_session_snapshot("rt:a", SESSION)
        for steps in range(MOST_STEPS):
            done = run_killed_after(
                steps, "backup", str(backup), "--database-url", url, watched="a.backup", calls=CALLS
            )
            if backup.exists():
                break
            assert done.returncode == -signal.SIGKILL, done.stderr
        await store.commit_session_snapshot("rt:b", SESSION)  # nobody holds anything up
    restored = f"sqlite:///{tmp_path}/restored.db"
    restore(backup, restored, Nobody())
    async with in_process(restored) as app, AsyncRuntimeStoreClient(app.address) as store:
        assert await store.load_session_snapshot("rt:a") == SESSION
    assert steps >= 4  # it was killed at several steps

    backup.unlink()
    create(url, backup, Nobody())  # what they left is in nobody's way
    assert [name for name in os.listdir(tmp_path) if name.startswith("a.backup")] == ["a.backup"]  # noqa: PTH208  (no path is needed)
