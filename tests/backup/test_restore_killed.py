"""A restore that is killed at any of its steps leaves a whole store under the name: the old one, or the new one."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient
from runtimestore_server.backup import CannotRestore, create, restore
from runtimestore_server.store.schema import upgrade
from support.checkers.progress import Nobody
from support.faults.killed_commands import run_killed_after
from support.generators.documents import session
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("runner")

OLD, NEW = session("old"), session("new")
MOST_STEPS = 40

CALLS = ("rename", "replace", "link", "unlink", "truncate", "open")


def _restored(steps: int, backup: Path, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Restore by the command, which is killed after so many steps."""
    url = f"sqlite:///{file}"
    return run_killed_after(
        steps, "restore", str(backup), *options, "--database-url", url, watched="store.db", calls=CALLS
    )


async def _session_in(url: str) -> bytes | None:
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        return await store.load_session_snapshot("rt:a")


async def _killed_with_a_log(file: Path) -> None:
    """A store whose last write is in its log alone."""
    upgrade(f"sqlite:///{file}")
    with ServerProcess(f"sqlite:///{file}", exit_code=-9) as server:
        async with AsyncRuntimeStoreClient(server.address) as store:
            await store.commit_session_snapshot("rt:a", OLD)
        server.kill()


async def test_a_restore_that_is_killed_at_any_step_leaves_the_old_store_or_the_new_one(tmp_path: Path) -> None:
    new = f"sqlite:///{tmp_path}/new.db"
    upgrade(new)
    async with in_process(new) as app, AsyncRuntimeStoreClient(app.address) as store:
        await store.commit_session_snapshot("rt:a", NEW)
    backup = tmp_path / "new.backup"
    create(new, backup, Nobody())
    (tmp_path / "old").mkdir()
    await _killed_with_a_log(tmp_path / "old" / "store.db")
    seen = []
    for steps in range(MOST_STEPS):
        folder = tmp_path / str(steps)
        shutil.copytree(tmp_path / "old", folder)
        file = folder / "store.db"
        done = _restored(steps, backup, file, "--replace")
        found = await _session_in(f"sqlite:///{file}")
        assert found in (OLD, NEW), (steps, done.stderr)
        seen.append(found)
        if done.returncode == 0:
            assert found == NEW
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        restore(backup, f"sqlite:///{file}", Nobody(), replace=True)  # what was left is in nobody's way
        assert await _session_in(f"sqlite:///{file}") == NEW
        assert [path.name for path in folder.iterdir() if "restoring" in path.name] == []
    assert seen[0] == OLD
    assert seen[-1] == NEW
    assert len(seen) > 4  # it was killed at several steps


async def test_what_a_killed_restore_left_beside_a_new_store_is_never_written_over(tmp_path: Path) -> None:
    """Between its two last steps the new store has two names, and one of them is where the next restore is made."""
    (tmp_path / "source").mkdir()
    source = f"sqlite:///{tmp_path}/source/a.db"
    upgrade(source)
    backup = tmp_path / "a.backup"
    create(source, backup, Nobody())
    two_names = 0
    for steps in range(MOST_STEPS):
        folder = tmp_path / str(steps)
        folder.mkdir()
        file = folder / "store.db"
        done = _restored(steps, backup, file)
        if file.exists():
            two_names += file.stat().st_nlink == 2
            async with in_process(f"sqlite:///{file}") as app, AsyncRuntimeStoreClient(app.address) as store:
                await store.commit_session_snapshot("rt:a", NEW)
                with pytest.raises(CannotRestore, match="stop it first"):
                    restore(backup, f"sqlite:///{file}", Nobody(), replace=True)
                await store.commit_session_snapshot("rt:b", NEW)
            assert await _session_in(f"sqlite:///{file}") == NEW
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert two_names == 1


async def test_a_store_behind_a_link_is_replaced_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    real, link = tmp_path / "volume" / "real.db", tmp_path / "link.db"
    upgrade(f"sqlite:///{real}")
    link.symlink_to(real)
    backup = tmp_path / "a.backup"
    create(f"sqlite:///{real}", backup, Nobody())

    restore(backup, f"sqlite:///{link}", Nobody(), replace=True)

    assert link.is_symlink()
    assert link.resolve() == real
    assert len(list((tmp_path / "volume").glob("real.db.replaced-*"))) == 1
