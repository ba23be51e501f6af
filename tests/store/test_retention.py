"""A clock that is wrong makes no request old: what is forgotten too soon would be applied again when it is repeated."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
import structlog

from runtimestore_server.store import requests, tables
from runtimestore_server.store.retention import Retention
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.writes import Write
from support.generators.store_writes import commit, new_id, runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.store.engines import Database

RETENTION_SECONDS = 3600
DAY = 86400.0


class Clock:
    """The host's clock and the time that passes, both set by hand; the database's is the host's or ahead of it."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self._database = database
        self._wall = 1_800_000_000.0
        self._passed = 1000.0
        self._own = database.clocks_differ_ms(0) != 0
        monkeypatch.setattr(time, "time_ns", lambda: int(self._wall * 1e9))
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: int(self._passed * 1e9))
        if self._own:
            with database.writers.begin() as tx:
                tx.exec_driver_sql("CREATE TABLE clock (seconds double precision NOT NULL)")
                tx.exec_driver_sql("INSERT INTO clock VALUES (0)")
                tx.exec_driver_sql(
                    "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE"
                    " AS 'SELECT to_timestamp(seconds) FROM public.clock'"
                )
                name = tx.exec_driver_sql("SELECT current_database()").scalar_one()
                tx.exec_driver_sql(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
            database.dispose()
        self.jump(0)

    def go_on(self, seconds: float) -> None:
        """Let time pass, on every clock."""
        self._passed += seconds
        self.jump(seconds)

    def jump(self, seconds: float, *, host: bool = True) -> None:
        """Set the database's clock, and the host's as well; on an engine within the host they are one."""
        if host or not self._own:
            self._wall += seconds
        if self._own:
            with self._database.writers.begin() as tx:
                told = sa.text("UPDATE clock SET seconds = CASE seconds WHEN 0 THEN :first ELSE seconds + :more END")
                tx.execute(told, {"first": self._wall, "more": float(seconds)})


@pytest.fixture
def clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(database, monkeypatch)


@pytest.fixture
def log() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as found:
        yield found


def _forget(database: Database, retention: Retention) -> int:
    with database.writers.begin() as tx:
        return requests.forget(tx, before_ms=retention.expired_before_ms(database, tx), most=1000)


def _recorded(database: Database) -> Write:
    write = Write(runtime(), new_id(), runtime_state="idle")
    assert commit(database, write) == [Outcome(1)]
    return write


def test_a_clock_that_jumps_ahead_makes_nothing_old_and_is_told_once(
    database: Database, clock: Clock, log: list[structlog.typing.EventDict]
) -> None:
    retention = Retention(RETENTION_SECONDS)
    write = _recorded(database)
    assert _forget(database, retention) == 0
    clock.go_on(60)
    clock.jump(DAY)
    for _ in range(3):
        assert _forget(database, retention) == 0
        clock.go_on(60)

    assert commit(database, write) == [Outcome(1, replayed=True)]
    (line,) = log
    assert (line["log_level"], line["ahead_seconds"]) == ("warning", int(DAY))


def test_what_is_old_is_forgotten_while_the_clock_is_wrong_once_the_time_has_passed(
    database: Database, clock: Clock
) -> None:
    retention = Retention(RETENTION_SECONDS)
    _recorded(database)
    assert _forget(database, retention) == 0
    clock.jump(DAY)
    late = _recorded(database)
    for _ in range(RETENTION_SECONDS // 60 - 4):
        clock.go_on(60)
        assert _forget(database, retention) == 0
    for _ in range(5):
        clock.go_on(60)
        _forget(database, retention)

    assert commit(database, late) == [Outcome(1, replayed=True)]
    with database.readers.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.requests)).scalar_one() == 1


@pytest.mark.parametrize("back", [60.0, DAY, 10 * 365 * DAY])
def test_a_clock_that_goes_back_and_comes_again_makes_nothing_old(
    database: Database, clock: Clock, back: float
) -> None:
    retention = Retention(RETENTION_SECONDS)
    write = _recorded(database)
    assert _forget(database, retention) == 0
    clock.jump(-back)
    other = _recorded(database)
    clock.go_on(60)
    assert _forget(database, retention) == 0
    clock.jump(back)
    for _ in range(3):
        assert _forget(database, retention) == 0
        clock.go_on(60)

    assert commit(database, write, other) == [Outcome(1, replayed=True)] * 2


def test_after_a_long_downtime_what_is_old_is_forgotten(database: Database, clock: Clock) -> None:
    _recorded(database)
    clock.go_on(DAY)
    young = _recorded(database)

    assert _forget(database, Retention(RETENTION_SECONDS)) == 1
    assert commit(database, young) == [Outcome(1, replayed=True)]


def test_of_two_clocks_that_differ_at_start_the_earlier_one_counts(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch, log: list[structlog.typing.EventDict]
) -> None:
    clock = Clock(postgres_database, monkeypatch)
    write = _recorded(postgres_database)
    clock.jump(DAY, host=False)
    retention = Retention(RETENTION_SECONDS)

    assert _forget(postgres_database, retention) == 0
    assert [line["ahead_seconds"] for line in log] == [int(DAY)]
    assert commit(postgres_database, write) == [Outcome(1, replayed=True)]


def test_the_clock_of_one_of_several_servers_decides_nothing(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    write = _recorded(postgres_database)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + int(30 * DAY * 1e9))
    later = _recorded(postgres_database)

    assert _forget(postgres_database, Retention(RETENTION_SECONDS)) == 0
    assert commit(postgres_database, write, later) == [Outcome(1, replayed=True)] * 2
    with postgres_database.readers.connect() as connection:
        dates = connection.execute(sa.select(tables.requests.c.recorded_at_ms)).scalars().all()
    assert max(dates) < now_ns // 1_000_000 + 600_000
