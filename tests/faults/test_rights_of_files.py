"""What becomes of the rights of a store's file: one that may only be read, and one that is made behind a link."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest
from grpc_health.v1 import health_pb2

from runtimestore_server.store.schema import upgrade
from support.checkers.health import until_health_is
from support.faults.disk import unwritable
from support.generators.calls import Store, input_of
from support.generators.turns import ONCE
from support.servers.server import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("runner")

INTERVAL_SECONDS = 0.2
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_file_that_may_only_be_read_is_not_ready_and_says_so_at_start(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    upgrade(f"sqlite:///{file}")
    with contextlib.ExitStack() as locked:
        locked.enter_context(unwritable(file))
        with ServerProcess(f"sqlite:///{file}", health_interval_seconds=INTERVAL_SECONDS) as server:
            assert "may only be read" in server.log
            await until_health_is(server.address, NOT_SERVING)
            locked.close()
            await until_health_is(server.address, SERVING)
            async with Store(server.address, retry=ONCE) as store:
                with contextlib.suppress(Exception):  # the connection may be from before
                    await store.persist_input_state("rt:a", input_of("a"))
                await store.persist_input_state("rt:a", input_of("b"))


def test_a_store_behind_a_link_that_led_nowhere_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    upgrade(f"sqlite:///{tmp_path}/link.db")
    assert (tmp_path / "real.db").stat().st_mode & 0o777 == 0o600
    with contextlib.closing(sqlite3.connect(tmp_path / "real.db")) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
