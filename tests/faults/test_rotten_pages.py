"""Rot beneath the engine: whatever becomes of a page of an SQLite file, `verify` ends, and misses no row in silence."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import DBAPIError

from runtimestore_server.store.engines import open_to_read
from runtimestore_server.store.schema import SchemaNotCurrent
from runtimestore_server.verify import verify
from support.checkers.verified import Told, fill
from support.faults.sqlite_pages import PAGE_BYTES
from support.generators.calls import Store
from support.generators.documents import session
from support.servers.server import in_process

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from support.checkers.torture import Trial

pytestmark = pytest.mark.usefixtures("runner")

FIRST_PAGES = 14
"""Those of the schema and of the roots of tables, which whatever is read goes through."""


def _zeros(rot: random.Random, file: bytearray, start: int) -> None:
    del rot
    file[start : start + PAGE_BYTES] = bytes(PAGE_BYTES)


def _noise(rot: random.Random, file: bytearray, start: int) -> None:
    file[start : start + PAGE_BYTES] = rot.randbytes(PAGE_BYTES)


def _bits(rot: random.Random, file: bytearray, start: int) -> None:
    for _ in range(rot.randrange(1, 5)):
        file[start + rot.randrange(PAGE_BYTES)] ^= 1 << rot.randrange(8)


def _head(rot: random.Random, file: bytearray, start: int) -> None:
    file[start + rot.randrange(12)] = rot.randrange(256)


def _pointer(rot: random.Random, file: bytearray, start: int) -> None:
    file[start + 8 + rot.randrange(100)] = rot.randrange(256)


def _cut(rot: random.Random, file: bytearray, start: int) -> None:
    del file[start + rot.randrange(PAGE_BYTES) :]


def _stray(rot: random.Random, file: bytearray, start: int) -> None:
    other = rot.randrange(len(file) // PAGE_BYTES) * PAGE_BYTES
    file[start : start + PAGE_BYTES] = file[other : other + PAGE_BYTES]


ROT: list[Callable[[random.Random, bytearray, int], None]] = [_zeros, _noise, _bits, _head, _pointer, _cut, _stray]


async def test_whatever_becomes_of_a_page_it_ends_and_misses_no_row_in_silence(trial: Trial, tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    async with in_process(f"sqlite:///{file}") as app, Store(app.address) as store:
        await fill(store)
        for number in range(60):
            await store.commit_session_snapshot(f"rt:{number}", session("x" * 6000))
            await store.acquire_runtime(f"rt:{number}", "somebody")
    told, damaged, refused, quiet = await asyncio.to_thread(_rotten, trial, file)
    trial.record(damaged_pages=damaged, found=told, refused=refused, without_a_finding=quiet)


def _rotten(trial: Trial, file: Path) -> tuple[int, int, int, int]:
    sound = file.read_bytes()
    expected = _verified(file)
    assert expected is not None
    assert expected.findings == []
    rounds = trial.rounds(short=60, long=4000)
    found = refused = quiet = 0
    for number in range(rounds):
        damaged = bytearray(sound)
        pages = len(sound) // PAGE_BYTES if number % 2 else FIRST_PAGES
        trial.random.choice(ROT)(trial.random, damaged, trial.random.randrange(pages) * PAGE_BYTES)
        file.write_bytes(damaged)

        told = _verified(file)

        assert file.read_bytes() == damaged
        if told is None:
            refused += 1
        elif told.findings:
            found += 1
            assert all(finding.line().isprintable() for finding in told.findings)
        else:
            quiet += 1  # what lies between the rows, or a count that became another possible one
            assert told.rows == expected.rows
    return found, rounds, refused, quiet


def _verified(file: Path) -> Told | None:
    """What it told; None where it refused to look."""
    database = open_to_read(f"sqlite:///{file}")
    told = Told()
    try:
        told.report = verify(database, told)
    except (SchemaNotCurrent, DBAPIError):
        return None
    finally:
        database.dispose()
    return told
