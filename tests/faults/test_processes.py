"""The processes that tests of faults break, and that are gone afterwards whatever was done to them."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from runtimestore import RuntimeState, RuntimeStoreClient
from support.servers.server_process import SERVE, WAIT_SECONDS, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

RUNTIME = "rt:session:one"


def test_a_server_that_was_killed_can_be_started_again_where_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with ServerProcess(url) as server, RuntimeStoreClient(server.address) as client:
        client.commit_machine_lifecycle(RUNTIME, RuntimeState.RUNNING)
        server.kill()
        assert server.wait() == -signal.SIGKILL
        with ServerProcess(url, listen=server.address) as again:
            assert again.address == server.address
            assert client.load_runtime_state(RUNTIME) is RuntimeState.RUNNING
            again.terminate()
            assert again.wait() == 0


@pytest.mark.parametrize("command", [None, SERVE], ids=["forked", "started"])
def test_a_server_that_a_test_has_stopped_ends_with_its_context(
    tmp_path: Path, command: tuple[str, ...] | None
) -> None:
    with ServerProcess(f"sqlite:///{tmp_path}/store.db", command=command) as server:
        server.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + WAIT_SECONDS
        while psutil.Process(server.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert not psutil.pid_exists(server.pid)
    assert "stopped" in server.log
