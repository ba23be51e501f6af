"""Damage beneath the tables, in the pages of the engine's own file."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import RetryPolicy, RuntimeStoreError, StoredValueCorrupt
from support.calls import RUNTIME_WRITES, Store, id_of, input_of, named
from support.clean_up import until
from support.database import held_commits
from support.documents import ops
from support.server import in_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.torture import Trial

    Call = Callable[[], Awaitable[Any]]

RUNTIMES = [f"rt:session:{number}" for number in range(20)]
HEADER_BYTES = 12
"""A page begins with what it is and where its cells are: SQLite's file format, "B-tree Pages"."""


class File:
    """A database file that a server has filled and left, and copies of it with damage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sound = folder / "sound.db"
        self.url = f"sqlite:///{self._sound}"
        self.sound: dict[str, dict[str, Any]] = {}
        """What the loads of each runtime answer before there is damage."""

    @property
    def page_bytes(self) -> int:
        return int.from_bytes(self._sound.read_bytes()[16:18], "big")

    @property
    def pages(self) -> int:
        return self._sound.stat().st_size // self.page_bytes

    def root_page(self, table: str) -> int:
        """Where a table begins; pages count from 0 here."""
        connection = sqlite3.connect(self._sound)
        try:
            (found,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        finally:
            connection.close()
        return int(found) - 1

    def damaged(self, page: int, within: int, bit: int) -> str:
        """The URL of a copy in which one bit of a page is another."""
        for left in self._folder.glob("damaged.db*"):
            left.unlink()
        copy = Path(shutil.copyfile(self._sound, self._folder / "damaged.db"))
        with copy.open("r+b") as file:
            file.seek(page * self.page_bytes + within)
            (byte,) = file.read(1)
            file.seek(-1, 1)
            file.write(bytes((byte ^ 1 << bit,)))
        return f"sqlite:///{copy}"


def _loads(store: Store, runtime_id: str) -> dict[str, Call]:
    return {
        "session": lambda: store.load_session_snapshot(runtime_id),
        "inputs": lambda: store.load_input_states(runtime_id),
        "input": lambda: store.load_input_state(runtime_id, input_of("").input_id),
        "state": lambda: store.load_runtime_state(runtime_id),
        "ops": lambda: store.load_ops_lifecycle(runtime_id),
        "receipt": lambda: store.load_boundary_receipt(runtime_id, id_of("a"), 0),
        "oauth": store.load_auth_oauth_flow_snapshot,
        "authority": store.auth_authority_key,
    }


def _writes(store: Store, runtime_id: str) -> dict[str, Call]:
    return {
        **{named(write): partial(write, store, runtime_id, "b") for write in RUNTIME_WRITES},
        "acquire": lambda: store.acquire_runtime(runtime_id, "host-b"),
        "oauth": lambda: store.persist_auth_oauth_flow_snapshot(b"other"),
    }


@pytest.fixture
def file(runner: asyncio.Runner, tmp_path: Path) -> File:
    found = File(tmp_path)

    async def fill() -> None:
        async with in_process(found.url) as app, Store(app.address) as store:
            for runtime_id in RUNTIMES:
                for write in RUNTIME_WRITES:
                    await write(store, runtime_id, "a")
                await store.acquire_runtime(runtime_id, "host-a")
            await store.persist_auth_oauth_flow_snapshot(b"flow")
            for runtime_id in RUNTIMES:
                found.sound[runtime_id] = {name: await load() for name, load in _loads(store, runtime_id).items()}

    runner.run(fill())
    return found


async def _answer(call: Call) -> Any:
    try:
        return await call()
    except RuntimeStoreError as refusal:
        return refusal


def _is_told(answer: object) -> bool:
    """Whether it is the refusal of damage, which names the row, or the whole file and what to do about it."""
    if not isinstance(answer, StoredValueCorrupt):
        return False
    return answer.metadata["table"] != "unknown" or "run `runtimestore verify`" in answer.message


async def test_a_bit_of_a_page_that_is_another_is_told_as_damage_and_nothing_wrong_is_handed_out(
    trial: Trial, file: File
) -> None:
    once = RetryPolicy(max_attempts=1)
    counted: Counter[str] = Counter()
    wrong = []
    flips = trial.rounds(short=10, long=300)
    for number in range(flips):
        runtime_id = trial.random.choice(RUNTIMES)
        sound = file.sound[runtime_id]
        # Not the schema and its revision, without which no server starts, nor the store's id, which has no digest.
        page = trial.random.randrange(4, file.pages)
        # Every other one where it matters most.
        within = trial.random.randrange(HEADER_BYTES if number % 2 else file.page_bytes)
        url = file.damaged(page, within, trial.random.randrange(8))
        async with in_process(url) as app, Store(app.address, retry=once) as store:
            for name, load in _loads(store, runtime_id).items():
                answer = await _answer(load)
                # An index that lost a row is not seen: what it led to is absent.
                less = answer is None or (isinstance(answer, list) and all(item in sound[name] for item in answer))
                counted["told" if _is_told(answer) else "sound" if answer == sound[name] else "absent"] += 1
                if not (answer == sound[name] or less or _is_told(answer)):
                    wrong.append(f"page {page}, byte {within}, {name}: {answer!r}")
            for name, write in _writes(store, runtime_id).items():
                answer = await _answer(write)
                counted["writes refused" if isinstance(answer, RuntimeStoreError) else "writes done"] += 1
                if isinstance(answer, RuntimeStoreError) and not _is_told(answer):
                    wrong.append(f"page {page}, byte {within}, {name}: {answer!r}")
    trial.record(flipped_bits=flips, **counted)
    assert wrong == []


async def test_a_write_that_meets_a_damaged_page_does_not_take_its_neighbours_along(file: File) -> None:
    url = file.damaged(file.root_page("ops_snapshots"), 0, 7)
    async with in_process(url) as app, Store(app.address, retry=RetryPolicy(max_attempts=1)) as store:
        with held_commits(app) as go_on:
            calls = [
                store.persist_ops_lifecycle(RUNTIMES[0], ops()),
                *(store.persist_input_state(runtime_id, input_of("b")) for runtime_id in RUNTIMES[1:5]),
            ]
            answers = asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: app.store._committer.waiting_writes == len(calls))
            go_on.set()
            refusal, *landed = await answers

    assert isinstance(refusal, StoredValueCorrupt)
    assert _is_told(refusal)
    assert refusal.metadata.items() >= {"table": "unknown", "store_error": "write_failed"}.items()
    assert {type(answer).__name__ for answer in landed} == {"Commit"}
