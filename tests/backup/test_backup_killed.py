"""A backup that is killed at any of its steps leaves a whole file or none, and the store as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient
from runtimestore_server.backup import create, restore
from support.checkers.progress import Nobody
from support.generators.documents import session
from support.servers.engines import DURABLE
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.engines import Engine

pytestmark = pytest.mark.usefixtures("runner")

SESSION = session("kept")
MOST_STEPS = 60

KILLED = """\
import os, signal, sys
left = int(sys.argv[1])
def killing(call):
    def step(*args, **options):
        global left
        named = (os.fsdecode(a) for a in args if isinstance(a, (str, bytes, os.PathLike)))
        left -= call is fsync or any("a.backup" in name for name in named)
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return step
fsync = os.fsync
for name in ("rename", "replace", "link", "unlink", "open", "fsync"):
    setattr(os, name, killing(getattr(os, name)))
from runtimestore_server.cli import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.needs(DURABLE)
async def test_a_backup_that_is_killed_at_any_step_leaves_a_whole_file_or_none(engine: Engine, tmp_path: Path) -> None:
    url, backup, steps = engine.fresh_url(), tmp_path / "a.backup", 0
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        await store.commit_session_snapshot("rt:a", SESSION)
        for steps in range(MOST_STEPS):
            command = [sys.executable, "-c", KILLED, str(steps), "backup", str(backup), "--database-url", url]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: ASYNC221  (nothing else runs on this loop)
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
