"""`runtimestore verify` as people start it: exit codes, reports, beside a server, in bounded memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store import tables
from runtimestore_server.store.engines.naming import describe
from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from support.generators.calls import Store, input_of
from support.generators.documents import new_id, receipt, session
from support.servers.command import run
from support.servers.database import flip_a_byte
from support.servers.engines import DURABLE
from support.servers.server import ServerProcess, in_process

if TYPE_CHECKING:
    from support.servers.engines import Engine

MIB = 1024 * 1024


@pytest.mark.needs(DURABLE)
async def test_a_sound_store_exits_with_0_and_a_damaged_one_with_1_while_a_server_serves_it(
    engine: Engine, tmp_path: Path
) -> None:
    url = engine.fresh_url()
    extra = {"RUNTIMESTORE_DATABASE_URL": url}
    with ServerProcess(url) as server:
        async with Store(server.address) as store:
            await store.persist_input_state("rt:x", input_of("a"))
            sound = run("verify", cwd=tmp_path, extra=extra)
            async with in_process(url) as app:
                await flip_a_byte(app, tables.inputs.c.state_json, runtime_id="rt:x")
            damaged = run("verify", "--report", "report.json", cwd=tmp_path, extra=extra)
            as_json = run("verify", "--database-url", url, "--json", cwd=tmp_path)
            await store.persist_input_state("rt:x", input_of("a"))
            mended = run("verify", "--json", cwd=tmp_path, extra=extra)
    engine.drop(url)

    assert [done.returncode for done in (sound, damaged, as_json, mended)] == [0, 1, 1, 0], damaged.stderr
    assert "nothing wrong" in sound.stdout
    assert input_of("a").input_id in damaged.stdout
    written, printed = json.loads((tmp_path / "report.json").read_text()), json.loads(as_json.stdout)
    assert written["findings"] == printed["findings"]
    (found,) = printed["findings"]
    assert (found["kind"], found["table"]) == ("digest_mismatch", "inputs")
    assert found["key"] == {"realm": "default", "runtime_id": "rt:x", "input_id": input_of("a").input_id}
    assert json.loads(mended.stdout)["findings"] == []
    assert sound.stderr == damaged.stderr == as_json.stderr == ""
    named = describe(url)  # also where no terminal shows it: a report says which store it is of
    assert all(done.stdout.splitlines()[-1].startswith(f"{named}: ") for done in (sound, damaged))
    assert written["store"] == printed["store"] == named


@pytest.mark.usefixtures("runner")
async def test_warnings_fail_only_where_it_is_strict(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with in_process(url) as app, Store(app.address) as store:
        await store.atomic_apply("rt:x", receipt=receipt(contributing=(new_id(),)))

    lenient, strict = (run("verify", "--database-url", url, *more, cwd=tmp_path) for more in ((), ("--strict",)))

    assert [lenient.returncode, strict.returncode] == [0, 1]
    assert lenient.stdout.startswith("warning: receipts (")


def test_it_exits_with_2_where_it_cannot_look(tmp_path: Path) -> None:
    missing = run("verify", "--database-url", "sqlite:///nothing.db", cwd=tmp_path)
    memory = run("verify", "--database-url", "memory:", cwd=tmp_path)
    nowhere = run("verify", "--database-url", "postgresql://app:secret-9@127.0.0.1:1/store", cwd=tmp_path)
    sqlite3.connect(tmp_path / "foreign.db").executescript("CREATE TABLE t (n)").connection.close()
    foreign = run("verify", "--database-url", "sqlite:///foreign.db", cwd=tmp_path)

    for done in (missing, memory, nowhere, foreign):
        assert done.returncode == 2
        assert done.stderr.startswith("runtimestore: ")
        assert "Traceback" not in done.stderr
        assert "secret-9" not in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "nothing.db").exists()


def test_a_report_that_cannot_be_written_is_told_before_anything_is_looked_at(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path}/store.db")

    done = run("verify", "--database-url", "sqlite:///store.db", "--report", "no/such/folder.json", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "no/such/folder.json: No such file or directory" in done.stderr


async def test_ctrl_c_ends_it_with_130_and_a_report_of_what_was_found(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path}/store.db")
    code = (
        "import sys\n"
        "from runtimestore_server.cli import run\n"
        "from runtimestore_server.verify import walk\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "walk._of_batch = walk._batches = stop\n"
        "sys.exit(run(['verify', *sys.argv[1:]]))\n"
    )
    arguments = ("--database-url", "sqlite:///store.db", "--json", "--report", "found.json")

    done = run(*arguments, cwd=tmp_path, command=(sys.executable, "-c", code))

    assert (done.returncode, done.stderr) == (130, "")
    assert json.loads(done.stdout)["complete"] is False
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(done.stdout)


def test_its_help_tells_what_it_finds_and_how_it_exits(tmp_path: Path) -> None:
    told = run("verify", "--help", cwd=tmp_path).stdout

    for word in ("digest_mismatch", "input_missing", "exit code", "--json", "--report", "RUNTIMESTORE_DATABASE_URL"):
        assert word in told


PEAK = r"""
import re, sys
from runtimestore_server.cli import run
assert run(["verify", *sys.argv[1:]]) == 0
print(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.needs(DURABLE)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc to read the peak from")
async def test_its_memory_does_not_grow_with_the_store(engine: Engine, tmp_path: Path) -> None:
    peaks = []
    for sessions in (2, 30):
        url = engine.fresh_url()
        async with in_process(url) as app, Store(app.address) as store:
            for number in range(sessions):
                await store.commit_session_snapshot(f"rt:{number}", session("x" * 2 * MIB))
        done = run("--database-url", url, cwd=tmp_path, command=(sys.executable, "-c", PEAK))
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) * 1024)
        engine.drop(url)

    small, large = peaks
    assert large - small < 30 * MIB, peaks
