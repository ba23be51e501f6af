"""A thread or a task that ends by an error is noticed: whoever waits is answered, health says so, it is begun anew."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtimestore import CommitOutcomeUnknown, RetryPolicy, StoreUnavailable
from runtimestore_server.cli.serve import FAILED
from runtimestore_server.services.health import HealthService
from runtimestore_server.store import commit_thread
from runtimestore_server.store.commit_thread import CommitThread
from runtimestore_server.store.transaction import commit_batch
from runtimestore_server.workers import Workers
from support.checkers.clean_up import until
from support.faults.http2 import call_headers, frame, preface
from support.generators.calls import Store, input_of
from support.servers.server import in_process
from support.servers.server_process import ANY_PORT, environment_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from runtimestore_server.app import Application

RUNTIME = "rt:session:one"
ONCE = RetryPolicy(max_attempts=1)
CALL_SECONDS = 5.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Unforeseen(BaseException):
    """Not even an `Exception`."""


class _Failing:
    """A function or method that raises the first times it is called, before or after it does what it does."""

    def __init__(self, real: Callable[..., Any], *, times: int = 1, after: bool = False) -> None:
        self._real = real
        self._times = times
        self._after = after
        self.failed = 0

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.failed < self._times:
            self.failed += 1
            if self._after:
                self._real(*args, **kwargs)
            raise Unforeseen
        return self._real(*args, **kwargs)


@contextlib.asynccontextmanager
async def _watched(app: Application) -> AsyncIterator[list[int]]:
    """What health tells one who watches, in order."""
    told: list[int] = []
    async with grpc.aio.insecure_channel(app.address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        told.append((await watching.read()).status)

        async def read() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                while answer := await watching.read():
                    told.append(answer.status)

        reading = asyncio.create_task(read())
        yield told
        watching.cancel()
        await asyncio.wait([reading])


@contextlib.asynccontextmanager
async def _noticed(app: Application) -> AsyncIterator[Store]:
    """Inside, something ends by an error: health says so, and soon that all is well again."""
    async with _watched(app) as told, Store(app.address, retry=ONCE, timeout_seconds=CALL_SECONDS) as store:
        yield store
        await until(lambda: told[-2:] == [NOT_SERVING, SERVING])
        assert told[0] == SERVING


def _serving() -> Any:
    return in_process("memory:", health_interval_seconds=0.1)


@pytest.mark.parametrize("step", ["_next_batch", "_take", "_settle", "_bring_back"])
async def test_a_commit_thread_that_ends_by_an_error_answers_truthfully_and_goes_on(
    runner: object, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    del runner
    async with _serving() as app, _noticed(app) as store:
        assert await store.persist_input_state(RUNTIME, input_of("a")) == (1, False)
        failing = _Failing(getattr(CommitThread, step))
        monkeypatch.setattr(CommitThread, step, failing)

        answers = await asyncio.gather(
            *(store.persist_input_state(f"rt:{number}", input_of("b")) for number in range(5)), return_exceptions=True
        )

        assert failing.failed == 1
        stored = [await store.load_input_states(f"rt:{number}") for number in range(5)]
        for answer, found in zip(answers, stored, strict=True):
            assert isinstance(answer, CommitOutcomeUnknown) or (answer == (1, False)) == bool(found)
            assert isinstance(answer, StoreUnavailable | CommitOutcomeUnknown) or answer == (1, False)
        assert await store.persist_input_state(RUNTIME, input_of("c")) == (2, False)


def _telling_nobody(*args: Any, committed: object, **kwargs: Any) -> Any:
    """Commit a batch; an error behind COMMIT comes before the decisions are handed over."""
    del committed
    return commit_batch(*args, **kwargs)


@pytest.mark.parametrize(("after", "refusal"), [(False, StoreUnavailable), (True, CommitOutcomeUnknown)])
async def test_an_error_before_commit_is_told_as_nothing_committed_and_one_behind_it_as_unknown(
    runner: object, monkeypatch: pytest.MonkeyPatch, after: bool, refusal: type[Exception]
) -> None:
    del runner
    async with _serving() as app, _noticed(app) as store:
        monkeypatch.setattr(commit_thread, "commit_batch", _Failing(_telling_nobody, after=after))
        with pytest.raises(refusal):
            await store.persist_input_state(RUNTIME, input_of("a"))
        assert await store.load_input_states(RUNTIME) == ([input_of("a")] if after else [])
        assert await store.persist_input_state(RUNTIME, input_of("b")) == (1 + after, False)


async def test_a_worker_that_ends_by_an_error_answers_its_load_and_goes_on(
    runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    del runner
    async with _serving() as app, _noticed(app) as store:
        monkeypatch.setattr(app.workers, "_run", _Failing(app.workers._run))
        with pytest.raises(StoreUnavailable):
            await store.load_runtime_state(RUNTIME)
        assert await store.load_runtime_state(RUNTIME) is None
        assert not app.workers.waiting


async def test_workers_that_have_all_ended_by_errors_serve_again(
    runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    del runner
    async with _serving() as app, _noticed(app) as store:
        failing = _Failing(Workers._run, times=4)
        monkeypatch.setattr(app.workers, "_run", lambda item: failing(app.workers, item))
        loads = [store.load_runtime_state(RUNTIME) for _ in range(4)]
        answers = await asyncio.gather(*loads, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 4
        assert await store.load_runtime_state(RUNTIME) is None


async def test_a_watch_over_health_that_ends_by_an_error_says_so_and_goes_on(
    runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    del runner
    async with _serving() as app, _noticed(app):
        failing = _Failing(HealthService.report)
        monkeypatch.setattr(HealthService, "report", failing)
        await until(lambda: bool(failing.failed))


async def test_a_watch_over_health_whose_check_is_cancelled_goes_on(
    runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    del runner
    cancelled = asyncio.Event()
    async with _serving() as app, _noticed(app):
        real = app.store.checks

        async def checks() -> dict[str, str | None]:
            if not cancelled.is_set():
                cancelled.set()
                raise asyncio.CancelledError
            found: dict[str, str | None] = await real()
            return found

        monkeypatch.setattr(app.store, "checks", checks)
        await cancelled.wait()


async def test_what_serves_on_is_begun_anew_when_it_ends_by_an_error_itself(
    runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    del runner
    async with _serving() as app:
        for name in ("_stopped", "_anew"):
            failing = _Failing(getattr(app.server._serving, name))
            monkeypatch.setattr(app.server._serving, name, _raising(failing))
            host, _, port = app.address.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(preface() + frame(1, 4, 1, call_headers(app.address, b"/\xff")))
            await until(lambda: failing.failed == 1)  # noqa: B023  (called within the round)
            writer.close()
            async with Store(app.address, timeout_seconds=20) as store:
                assert await store.load_runtime_state(RUNTIME) is None


def _raising(failing: _Failing) -> Callable[[], Any]:
    """What fails as `failing` does, with an exception of the ordinary kind, as it comes in a task."""

    def call() -> Any:
        try:
            return failing()
        except Unforeseen:
            raise ValueError from None

    return call


PARTS = {
    "a commit thread": "CommitThread._next_batch",
    "a worker": "Workers._work",
    "the watch over health": "HealthService._check",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_server_of_which_a_part_does_not_come_to_run_ends_with_a_code(part: str) -> None:
    broken = textwrap.dedent(f"""
        import sys
        from runtimestore_server.__main__ import main
        from runtimestore_server.services.health import HealthService
        from runtimestore_server.store.commit_thread import CommitThread
        from runtimestore_server.workers import Workers
        def broken(*_): raise ValueError
        {PARTS[part]} = broken
        sys.exit(main())
    """)
    settings = {"RUNTIMESTORE_DATABASE_URL": "memory:", "RUNTIMESTORE_LISTEN": ANY_PORT}
    done = subprocess.run(
        [sys.executable, "-c", broken, "serve", "--grace-period-seconds", "1"],
        env=environment_with(settings), stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == FAILED
    assert "does not come to run" in done.stderr
    assert "Traceback" not in done.stderr
