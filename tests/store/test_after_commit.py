"""What fails once COMMIT is answered changes no answer: the transaction stands, and is not run again."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.engine import Connection

from runtimestore.errors import CommitOutcomeUnknown
from runtimestore_server.store.committer import Committer
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit as committed
from support.generators.store_writes import new_id, runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.store.engines import Database

WAIT_SECONDS = 20


class _FailsOnce:
    def __init__(self) -> None:
        self.failed = False

    def __call__(self, *_: object, **__: object) -> None:
        if not self.failed:
            self.failed = True
            raise ValueError


def _checkpoint(database: Database, monkeypatch: pytest.MonkeyPatch, failing: _FailsOnce) -> None:
    monkeypatch.setattr(database, "after_commit", failing)


def _release_buffers(database: Database, monkeypatch: pytest.MonkeyPatch, failing: _FailsOnce) -> None:
    monkeypatch.setattr(database, "release_buffers", failing)


def _give_connection_back(database: Database, monkeypatch: pytest.MonkeyPatch, failing: _FailsOnce) -> None:
    del database
    close = Connection.close

    def closed(connection: Connection) -> None:
        close(connection)
        failing()

    monkeypatch.setattr(Connection, "close", closed)


STEPS = (_checkpoint, _release_buffers, _give_connection_back)


@pytest.mark.parametrize("at", STEPS, ids=lambda step: step.__name__.removeprefix("_"))
def test_what_fails_after_commit_changes_no_answer_and_runs_no_write_again(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    at: Callable[[Database, pytest.MonkeyPatch, _FailsOnce], None],
) -> None:
    key, other, failing = runtime(), runtime(), _FailsOnce()
    at(database, monkeypatch, failing)

    decisions = committed(
        database,
        Write(key, runtime_state="idle"),  # without a request id nothing would keep it from being done twice
        Write(other, new_id(), runtime_state="idle"),
        Write(key, runtime_state="running"),
    )

    assert decisions == [Outcome(1), Outcome(1), Outcome(2)]
    assert failing.failed
    assert committed(database, Write(key, runtime_state="idle")) == [Outcome(3)]


async def test_nobody_waits_for_what_the_engine_does_after_a_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, over = threading.Event(), threading.Event()

    def after_commit(*_: object, **__: object) -> None:
        answered.wait(WAIT_SECONDS)
        over.set()

    monkeypatch.setattr(database, "after_commit", after_commit)
    committer = Committer(database, threads=1, max_batch_writes=9, max_waiting_writes=9, max_waiting_bytes=9)

    assert await committer.commit(Write(runtime(), runtime_state="idle")) == Outcome(1)

    assert not over.is_set()
    answered.set()
    assert await committer.close(within_seconds=WAIT_SECONDS)
    assert over.is_set()


async def test_an_answer_that_cannot_be_handed_over_after_a_commit_runs_no_write_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer = Committer(database, threads=1, max_batch_writes=9, max_waiting_writes=9, max_waiting_bytes=9)
    (thread, *_) = committer._threads
    deliver, failing = thread._deliver, _FailsOnce()

    def failing_once(*decided: Any) -> None:
        failing()
        deliver(*decided)

    monkeypatch.setattr(thread, "_deliver", failing_once)
    key = runtime()

    with pytest.raises(CommitOutcomeUnknown):
        await asyncio.wait_for(committer.commit(Write(key, runtime_state="idle")), WAIT_SECONDS)

    assert await committer.commit(Write(key, runtime_state="running")) == Outcome(2)
    assert await committer.close(within_seconds=WAIT_SECONDS)


async def test_an_error_in_what_is_counted_changes_no_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer = Committer(database, threads=1, max_batch_writes=9, max_waiting_writes=9, max_waiting_bytes=9)
    monkeypatch.setattr(committer.budget, "give_back", _FailsOnce())

    assert await committer.commit(Write(runtime(), runtime_state="idle")) == Outcome(1)

    assert await committer.commit(Write(runtime(), runtime_state="idle")) == Outcome(1)
    assert await committer.close(within_seconds=5)
