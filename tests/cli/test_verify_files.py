"""`runtimestore verify` of a file: it changes no byte, whoever wrote the file and whoever may read it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.engines.sqlite_driver import sqlite3
from support.faults.sqlite_pages import contents
from support.generators.calls import RUNTIME_WRITES, Store, input_of
from support.servers.command import run
from support.servers.server import ServerProcess, in_process
from support.servers.server_process import COMMAND, WAIT_SECONDS, environment_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("runner")


async def _store(file: Path) -> None:
    async with in_process(f"sqlite:///{str(file).replace('%', '%25')}") as app, Store(app.address) as store:
        for write in RUNTIME_WRITES:
            await write(store, "rt:x", "a")


def _foreign(file: Path, *, wal: bool) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript("CREATE TABLE t (n); INSERT INTO t VALUES (1)")


KILLED_IN_A_TRANSACTION = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")
connection.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 1000)
os._exit(0)
"""


@contextlib.contextmanager
def _read_only(folder: Path, *, files: bool = True, itself: bool = True) -> Iterator[tuple[str, ...]]:
    """Inside, no file of a folder can be written, and none made; the words before a command that hold even root to it.

    Without `files` those that are there can be written, without `itself` new ones be made.
    """
    command: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no command setpriv here, without which root may write everything: install util-linux")
        powers = "-dac_override,-dac_read_search"
        command = ("setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}")
    for file in folder.iterdir():
        file.chmod(0o444 if files else 0o644)
    folder.chmod(0o555 if itself else 0o755)
    try:
        yield command
    finally:
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o644)


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize("wal", [True, False])
def test_another_programs_file_is_neither_served_nor_migrated_nor_changed(
    tmp_path: Path, command: str, wal: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    _foreign(folder / "some.db", wal=wal)
    before = contents(folder)

    done = run(command, "--database-url", f"sqlite:///{folder}/some.db", cwd=tmp_path)

    assert done.returncode == 1
    assert "not RuntimeStore's" in done.stderr
    assert contents(folder) == before


def test_a_report_of_what_cannot_be_looked_at_leaves_no_file(tmp_path: Path) -> None:
    _foreign(tmp_path / "other.db", wal=False)

    done = run("verify", "--database-url", "sqlite:///other.db", "--report", "report.json", cwd=tmp_path)

    assert done.returncode == 2
    assert list(contents(tmp_path)) == ["other.db"]


@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "store.db-journal", "store.db-lock", "link", "other.db"])
async def test_a_report_never_takes_the_place_of_a_database(tmp_path: Path, name: str) -> None:
    await _store(tmp_path / "store.db")
    _foreign(tmp_path / "other.db", wal=False)
    (tmp_path / "link").symlink_to(tmp_path / "store.db")
    before = contents(tmp_path)

    done = run("verify", "--database-url", "sqlite:///store.db", "--report", name, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"--report {name}: would overwrite an SQLite database" in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "kind",
    ["foreign", "foreign in WAL mode", "foreign within a transaction", "empty", "no database", "of half a header"],
)
def test_a_file_that_is_no_store_is_refused_and_not_a_byte_of_it_changes(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "some.db"
    if kind.startswith("foreign"):
        _foreign(file, wal=kind.endswith("mode"))
        if kind.endswith("transaction"):
            subprocess.run([sys.executable, "-c", KILLED_IN_A_TRANSACTION, str(file)], check=True)
            assert (folder / "some.db-journal").stat().st_size
    else:
        file.write_bytes({"empty": b"", "no database": b"text\n" * 1000}.get(kind, b"SQLite format 3\0abc"))
    before = contents(folder)

    done = run("verify", "--database-url", f"sqlite:///{file}", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("runtimestore: ")
    assert done.stderr.count("\n") == 1
    assert contents(folder) == before


async def test_a_store_that_nobody_serves_stays_as_it_is_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder %41#1"  # what SQLite's own names of files would take for something else
    folder.mkdir()
    await _store(folder / "store.db")
    before = contents(folder)
    assert list(before) == ["store.db"]

    for url in ("sqlite:///store.db", f"sqlite:///{folder}/store.db".replace("%", "%25")):
        done = run("verify", "--database-url", url, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert contents(folder) == before


async def test_what_a_killed_server_left_in_its_log_is_looked_at_and_left_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    url = f"sqlite:///{folder}/store.db"
    with ServerProcess(url, exit_code=-9) as server:
        async with Store(server.address) as store:
            await store.persist_input_state("rt:x", input_of("a"))
        server.kill()
    before = contents(folder)
    assert "store.db-wal" in before

    done = run("verify", "--database-url", url, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["inputs"] == 1
    after = contents(folder)
    assert {name: after[name] for name in ("store.db", "store.db-wal")} == {
        name: before[name] for name in ("store.db", "store.db-wal")
    }


@pytest.mark.parametrize("held", [("files",), ("itself",), ("files", "itself")], ids=" and ".join)
async def test_a_copy_that_may_only_be_read_is_verified(tmp_path: Path, held: tuple[str, ...]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    await _store(folder / "store.db")
    before = contents(folder)

    with _read_only(folder, files="files" in held, itself="itself" in held) as command:
        done = run(
            "verify", "--database-url", f"sqlite:///{folder}/store.db", cwd=tmp_path, command=(*command, *COMMAND)
        )

    assert done.returncode == 0, done.stderr
    assert "nothing wrong" in done.stdout
    assert contents(folder) == before


async def test_a_store_that_is_served_is_verified_by_who_may_only_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    url = f"sqlite:///{folder}/store.db"
    with ServerProcess(url) as server:
        async with Store(server.address) as store:
            await store.persist_input_state("rt:x", input_of("a"))
            with _read_only(folder) as command:
                done = run("verify", "--json", "--database-url", url, cwd=tmp_path, command=(*command, *COMMAND))
            await store.persist_input_state("rt:x", input_of("b"))

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["inputs"] == 1


READING = r"""
import sys
from runtimestore_server.store.engines import ChangedMeanwhile, open_to_read
database = open_to_read(sys.argv[1])
try:
    with database.snapshot() as tx:
        print(tx.exec_driver_sql("SELECT count(*) FROM runtimes").scalar(), flush=True)
        if sys.stdin.readline() == "fail\n":
            raise RuntimeError("what was read does not fit together")
except ChangedMeanwhile as error:
    print(error)
finally:
    database.dispose()
"""


@contextlib.contextmanager
def _reading(url: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to read a store, and ends once it is sent a line."""
    with subprocess.Popen(
        (*command, sys.executable, "-c", READING, url),
        env=environment_with({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        yield reader


@pytest.mark.parametrize("ends", ["well", "fail"])
async def test_a_file_that_is_written_to_while_it_is_read_without_a_lock_is_no_answer(
    tmp_path: Path, ends: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    url = f"sqlite:///{folder}/store.db"
    await _store(folder / "store.db")
    with _read_only(folder) as command, _reading(url, *command) as reader:
        folder.chmod(0o755)
        (folder / "store.db").chmod(0o644)
        async with in_process(url) as app, Store(app.address) as store:
            await store.persist_input_state("rt:y", input_of("a"))
        told, _ = reader.communicate(f"{ends}\n", timeout=WAIT_SECONDS)

    assert "was written to while it was read" in told


async def test_a_server_that_starts_meanwhile_serves_and_the_store_is_seen_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    url = f"sqlite:///{folder}/store.db"
    await _store(folder / "store.db")
    with _reading(url) as reader:
        async with in_process(url) as app, Store(app.address) as store:
            await store.persist_input_state("rt:y", input_of("a"))
        told, _ = reader.communicate("\n", timeout=WAIT_SECONDS)

    assert (told, reader.returncode) == ("", 0)
    assert list(contents(folder)) == ["store.db"]  # the last that closes it takes the log along
    with contextlib.closing(sqlite3.connect(folder / "store.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runtimes").fetchone() == (2,)


@pytest.mark.parametrize("name", ["store.db?mode=ro", "file:store.db", "file:store.db?mode=rwc&uri=true"])
@pytest.mark.parametrize("command", ["serve", "migrate", "verify"])
def test_what_only_sqlite_would_make_of_a_url_is_refused_and_makes_no_file(
    tmp_path: Path, command: str, name: str
) -> None:
    done = run(command, "--database-url", f"sqlite:///{name}", cwd=tmp_path)

    assert done.returncode == 2
    assert "setting database_url: sqlite:///FILE takes no options" in done.stderr
    assert list(tmp_path.iterdir()) == []
