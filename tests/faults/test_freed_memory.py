"""What large documents took is given back to the system, while the server goes on."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.memory import is_decided
from support.checkers.clean_up import until
from support.checkers.footprint import pid_of, resident_bytes
from support.generators.calls import Store
from support.generators.documents import session
from support.servers.server import in_process
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
COMMITS = 3
DOCUMENT_BYTES = 48 * MIB
GIVEN_BACK_SECONDS = 60

pytestmark = pytest.mark.usefixtures("runner")


@pytest.mark.slow
async def test_a_server_gives_back_what_large_documents_took(tmp_path: Path) -> None:
    # Half of it packs: what that comes to is too small for glibc to give it back by itself.
    text = "x" * (DOCUMENT_BYTES // 2) + base64.b64encode(os.urandom(DOCUMENT_BYTES * 3 // 8)).decode()
    with ServerProcess(f"sqlite:///{tmp_path / 'store.db'}", session_cache_bytes=0) as server:
        pid = pid_of(server)
        idle_bytes = resident_bytes(pid)
        async with Store(server.address, timeout_seconds=60) as store:
            for number in range(COMMITS):
                await store.commit_session_snapshot(f"runtime {number}", session(text))
        async with asyncio.timeout(GIVEN_BACK_SECONDS):
            while resident_bytes(pid) - idle_bytes > DOCUMENT_BYTES:  # noqa: ASYNC110  (no event tells of it)
                await asyncio.sleep(0.2)


async def test_a_server_whose_python_cannot_ask_the_allocator_serves_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)  # as where Python was built without libffi
    async with in_process("memory:") as app:
        thread = app.freed_memory._thread
        assert thread is not None
        await until(lambda: not thread.is_alive())
        assert app.supervision.problem() is None


@pytest.mark.parametrize(
    ("environment", "decided"),
    [
        ({}, False),
        ({"MALLOC_ARENA_MAX": "2", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, False),  # as the image has it
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, True),
        ({"MALLOC_MMAP_THRESHOLD_": "131072"}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=131072"}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, True),
    ],
)
def test_what_an_operator_decided_about_the_allocator_is_left_so(environment: dict[str, str], decided: bool) -> None:
    assert is_decided(environment) is decided
