"""A start that is cancelled leaves nothing open."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from runtimestore_server.store import schema
from support.checkers.clean_up import until
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path


def _open_files(folder: Path) -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(folder))]


async def test_a_start_that_is_cancelled_while_the_database_is_checked_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reached, go_on = schema.check, threading.Event(), threading.Event()

    def check(database: Any) -> Any:
        found = real(database)
        reached.set()
        go_on.wait(20)
        return found

    async def start() -> None:
        async with in_process(f"sqlite:///{tmp_path / 'store.db'}"):
            pytest.fail("it was cancelled before")

    monkeypatch.setattr(schema, "check", check)
    starting = asyncio.create_task(start())
    await until(reached.is_set)
    assert _open_files(tmp_path)

    starting.cancel()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not _open_files(tmp_path)
