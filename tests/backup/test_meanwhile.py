"""What comes into the way of a backup or a restore while it is under way is not overwritten."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from runtimestore import AsyncRuntimeStoreClient
from runtimestore_server.backup import CannotBackUp, CannotRestore, create, restore
from runtimestore_server.store.schema import upgrade
from support.checkers.progress import Nobody
from support.servers.backups import manifest_of, run_backup
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import CompletedProcess

    from support.servers.engines import Engine

pytestmark = pytest.mark.usefixtures("runner")


class _Meanwhile(Nobody):
    """Does something in the midst of a backup or restore, when a step of that name begins."""

    def __init__(self, step: str, happens: Callable[[], object]) -> None:
        self._step = step
        self._happens: Callable[[], object] | None = happens

    def begin(self, step: str, total: int) -> None:
        """Do it, once."""
        del total
        happens, self._happens = (self._happens, None) if step == self._step else (None, self._happens)
        if happens is not None:
            happens()


def test_two_backups_into_one_file_are_one_backup_and_one_refusal(tmp_path: Path) -> None:
    for name in ("one", "two"):
        upgrade(f"sqlite:///{tmp_path}/{name}.db")
    file = tmp_path / "a.backup"
    other: list[CompletedProcess[str]] = []
    meanwhile = _Meanwhile("adding up", lambda: other.append(run_backup(f"sqlite:///{tmp_path}/two.db", file)))

    taken = create(f"sqlite:///{tmp_path}/one.db", file, meanwhile)

    assert other[0].returncode == 2
    assert "another backup" in other[0].stderr
    assert manifest_of(file) == taken.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "one.db", "two.db"]


def test_a_file_that_comes_while_a_backup_is_written_is_not_overwritten(backup: Path, tmp_path: Path) -> None:
    backup.unlink()
    meanwhile = _Meanwhile("adding up", lambda: backup.write_bytes(b"precious"))

    with pytest.raises(CannotBackUp, match="is there already"):
        create(f"sqlite:///{tmp_path}/source.db", backup, meanwhile)

    assert backup.read_bytes() == b"precious"


@pytest.mark.parametrize("step", ["copying", "adding up", "restoring"])
async def test_a_store_that_is_made_while_a_restore_is_under_way_is_not_replaced(
    step: str, backup: Path, other: Engine, there: str
) -> None:
    if other.name == "sqlite":
        os.close(os.open(there.removeprefix("sqlite:///"), os.O_CREAT))  # an empty file: nothing is there yet

    with pytest.raises(CannotRestore, match=r"meanwhile|a server is connected"):
        restore(backup, there, _Meanwhile(step, lambda: upgrade(there)))

    assert await _authority(there) != await _authority(f"sqlite:///{backup.parent}/source.db")


async def _authority(url: str) -> str | None:
    async with in_process(url) as app, AsyncRuntimeStoreClient(app.address) as store:
        return await store.auth_authority_key()
