"""Calls whose streams are reset, or end in the middle, as a proxy does that restarts: they are repeated."""

from __future__ import annotations

import time
import uuid

import pytest

from runtimestore import CallFailed, Commit, DeadlineExceeded, RetryPolicy
from support.checkers.threaded import either_client
from support.faults.resetting_proxy import CUT, Resets, resetting_proxy
from support.generators.documents import input_state, receipt, session
from support.servers.server import in_process

RUNTIME = "rt:session:one"
ALL_CODES = (*range(14), CUT)
"""RFC 9113, section 7, and an end without a status."""
LONG_SECONDS = 20.0
BODY = session("x" * 1_300_000)
"""Its answer is a stream of several messages, each of several frames."""


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_whatever_ends_its_stream_a_write_is_done_once_and_a_load_is_read_whole(kind: str) -> None:
    async with in_process("memory:") as app:
        for code in ALL_CODES:
            runtime = f"rt:session:{uuid.uuid4()}"
            resets = Resets(code, times=1)
            async with (
                resetting_proxy(app.address, resets) as address,
                either_client(kind, address, known_bytes=0) as store,
            ):
                assert await store.commit_session_snapshot(runtime, BODY) == Commit(1, replayed=True), code
                for after_data_frames in (0, 20):
                    resets.left, resets.after_data_frames = 1, after_data_frames
                    loaded = await store.load_session_snapshot_with_revision(runtime)
                    assert (loaded.value, loaded.revision, resets.left) == (BODY, 1, 0), code


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_whatever_ends_its_stream_what_changed_is_written_once_and_a_runtime_is_read_whole(kind: str) -> None:
    changed = BODY[:-900_000] + BODY[-800_000:]
    kept = input_state()
    before, after = [kept, input_state()], [kept, input_state()]
    async with in_process("memory:") as app:
        for code in ALL_CODES:
            runtime, resets = f"rt:session:{uuid.uuid4()}", Resets(code, times=0)
            async with (
                resetting_proxy(app.address, resets) as address,
                either_client(kind, address) as store,
                either_client(kind, address, known_bytes=0) as another,
            ):
                await store.atomic_apply(runtime, BODY, receipt(), before)
                resets.left = 1
                assert await store.atomic_apply(runtime, changed, receipt(), after) == Commit(2, replayed=True), code
                for after_data_frames in (0, 20):
                    resets.left, resets.after_data_frames = 1, after_data_frames
                    loaded = await another.load_runtime(runtime)
                    assert (loaded.revision, loaded.session_snapshot, resets.left) == (2, changed, 0), code


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_a_write_that_the_server_would_not_recognise_is_not_repeated_after_a_reset(kind: str) -> None:
    async with in_process("memory:") as app:
        for code in ALL_CODES:
            runtime = f"rt:session:{uuid.uuid4()}"
            async with (
                resetting_proxy(app.address, Resets(code, times=1)) as address,
                either_client(kind, address) as store,
            ):
                with pytest.raises(CallFailed):
                    await store.commit_session_snapshot(runtime, BODY, request_id="")
                assert (await store.load_session_snapshot_with_revision(runtime)).revision == 1, code


@pytest.mark.parametrize("kind", ["aio", "sync"])
@pytest.mark.parametrize("code", [2, 11, 12, CUT])
async def test_resets_that_are_no_accident_are_told_before_the_deadline(kind: str, code: int) -> None:
    resets = Resets(code, times=1000)
    async with (
        in_process("memory:") as app,
        resetting_proxy(app.address, resets) as address,
        either_client(kind, address, retry=RetryPolicy(max_backoff_seconds=0.1), timeout_seconds=60) as store,
    ):
        started = time.monotonic()
        with pytest.raises(CallFailed) as failed:
            await store.commit_session_snapshot(RUNTIME, BODY)
        assert time.monotonic() - started < LONG_SECONDS
    assert not isinstance(failed.value, DeadlineExceeded)
    assert failed.value.request_id  # with which the caller can find out
    assert 3 < 1000 - resets.left < 20  # repeated, but not for ever
