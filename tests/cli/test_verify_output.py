"""What `runtimestore verify` prints and writes: nothing forged by an id, nothing lost, nothing kept in memory."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore_server.store.engines.sqlite_driver import sqlite3
from runtimestore_server.store.schema import upgrade
from support.faults.disk import small_disk
from support.generators.calls import Store, input_of
from support.generators.documents import new_id
from support.servers.command import run
from support.servers.server import in_process
from support.servers.server_process import COMMAND, WAIT_SECONDS, environment_with

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("runner")

MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store without a row."""
    path = tmp_path / "store.db"
    upgrade(f"sqlite:///{path}")
    return path


def _execute(file: Path, statement: str, *values: Any) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement, values)


def _damaged(file: Path, count: int) -> None:
    """So many runtimes at a revision that none can be at."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        rows = (("default", f"rt:{number}", 0) for number in range(count))
        connection.executemany("INSERT INTO runtimes (realm, runtime_id, revision) VALUES (?, ?, ?)", rows)


def _shell(line: str, file: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash; `verify` in it is the command, with the store."""
    command = f'verify() {{ "{sys.executable}" -m runtimestore_server verify --database-url "sqlite:///{file}" "$@"; }}'
    return subprocess.run(
        ["bash", "-c", f"{command}\n{line}"],
        cwd=file.parent,
        env=environment_with({"PYTHONUNBUFFERED": ""}),  # as everywhere: what is buffered fails at the end
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )


@pytest.mark.parametrize("options", ["", "--json"])
def test_an_output_that_nobody_reads_any_more_ends_it_with_one_line(file: Path, options: str) -> None:
    _damaged(file, 3000)

    done = _shell(f"verify {options} | head -1 >&2; exit ${{PIPESTATUS[0]}}", file)

    first, told = done.stderr.splitlines()
    assert first == "{" if options else first.startswith("error: runtimes (")
    assert told == "runtimestore: standard output cannot be written: Broken pipe"
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize("count", [0, 3000])
def test_an_output_that_is_full_ends_it_with_one_line(file: Path, options: str, count: int) -> None:
    _damaged(file, count)

    done = _shell(f"verify {options} > /dev/full", file)

    assert done.stderr == "runtimestore: standard output cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_an_output_that_is_closed_is_told(file: Path) -> None:
    done = _shell("verify >&-", file)

    assert (done.returncode, done.stderr) == (2, "runtimestore: standard output is closed\n")


def test_the_report_is_whole_though_nobody_reads_the_lines(file: Path) -> None:
    _damaged(file, 3000)

    done = _shell("verify --report found.json | head -1 >&2; exit ${PIPESTATUS[0]}", file)

    assert done.returncode == 2
    report = json.loads((file.parent / "found.json").read_text())
    assert (report["complete"], report["errors"], len(report["findings"])) == (True, 3000, 3000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_report_that_fills_its_disk_is_told(file: Path) -> None:
    _damaged(file, 3)

    done = run("verify", "--database-url", f"sqlite:///{file}", "--report", "/dev/full", cwd=file.parent)

    assert done.returncode == 2
    assert done.stderr == "runtimestore: --report /dev/full cannot be written: No space left on device\n"
    assert "3 errors" in done.stdout


@pytest.mark.root
def test_a_temporary_folder_that_is_full_ends_it_with_one_line(file: Path) -> None:
    _damaged(file, 20_000)
    with small_disk(file.parent / "small", size_bytes=2 * MIB) as disk:
        extra = {"TMPDIR": str(disk.folder)}
        done = run("verify", "--database-url", f"sqlite:///{file}", "--json", cwd=file.parent, extra=extra)
        left = list(disk.folder.iterdir())

    assert (done.returncode, done.stdout, left) == (2, "", [])
    assert done.stderr == ("runtimestore: the temporary folder ($TMPDIR) cannot be written: No space left on device\n")


@pytest.mark.parametrize("stored", [b"\x1b[2J\0\xff", "\x1b[2J\n\u202e0002", None])
def test_a_revision_that_is_none_is_told_in_one_line(file: Path, stored: bytes | str | None) -> None:
    _execute(file, "DROP TABLE alembic_version")
    _execute(file, "CREATE TABLE alembic_version (version_num)")
    _execute(file, "INSERT INTO alembic_version VALUES (?)", stored)

    done = run("verify", "--database-url", f"sqlite:///{file}", cwd=file.parent)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("runtimestore: the database's revision is damaged: it is ")
    assert done.stderr.removesuffix("\n").isprintable()


HOSTILE = "rt:\x1b[1A\x1b[2K\nok: nothing wrong\u202e\u2028\x9b\x7f \U0001f469\u200d\U0001f680 \"quoted\", realm 'x')"


async def test_an_id_cannot_forge_a_line_and_the_report_has_it_exactly(file: Path) -> None:
    async with in_process(f"sqlite:///{file}") as app, Store(app.address) as store:
        await store.persist_input_state(HOSTILE, input_of("a"))
    _execute(file, "UPDATE inputs SET sha256 = zeroblob(32)")

    printed = run("verify", "--database-url", f"sqlite:///{file}", "--report", "found.json", cwd=file.parent)
    narrow = run("verify", "--database-url", f"sqlite:///{file}", cwd=file.parent, extra={"PYTHONIOENCODING": "ascii"})

    assert printed.returncode == narrow.returncode == 1
    line, summary, nothing = printed.stdout.split("\n")
    assert (line + summary).isprintable()
    assert nothing == ""
    assert line.startswith("error: inputs (realm default, runtime_id ")
    _, _, quoted = line.partition("runtime_id ")
    assert json.JSONDecoder().raw_decode(quoted)[0] == HOSTILE
    assert (narrow.stdout.isascii(), narrow.stderr) == (True, "")
    (found,) = json.loads((file.parent / "found.json").read_text())["findings"]
    assert found["key"]["runtime_id"] == HOSTILE


def test_what_a_damaged_row_names_cannot_forge_a_line(file: Path) -> None:
    run_id = new_id()
    named = {"run_id": run_id, "boundary": "run_start", "contributing_input_ids": [HOSTILE]}
    stored = json.dumps({**named, "message_count": 1, "sequence": 0}).encode()
    _execute(file, "INSERT INTO runtimes (realm, runtime_id, revision) VALUES ('default', 'rt:x', 1)")
    _execute(
        file,
        "INSERT INTO receipts (realm, runtime_id, run_id, sequence, sha256, receipt) VALUES (?, ?, ?, ?, ?, ?)",
        *("default", "rt:x", run_id, "0" * 20, sha256(stored).digest(), stored),
    )

    done = run("verify", "--database-url", f"sqlite:///{file}", cwd=file.parent)

    line, summary, nothing = done.stdout.split("\n")
    assert line.startswith("warning: receipts (")
    assert (line + summary).isprintable()
    assert nothing == ""


def test_the_document_is_the_same_however_many_findings_it_has(file: Path) -> None:
    for count in (0, 1, 2, 5000):  # the last are more than are held in memory
        _execute(file, "DELETE FROM runtimes")
        _damaged(file, count)

        done = run("verify", "--database-url", f"sqlite:///{file}", "--json", "--report", "found.json", cwd=file.parent)

        report = json.loads(done.stdout)
        assert done.stdout == json.dumps(report, indent=2) + "\n"
        assert done.stdout == (file.parent / "found.json").read_text()
        assert list(report) == (
            ["store", "engine", "schema_revision", "complete", "seconds", "rows", "errors", "warnings", "findings"]
        )
        assert report["errors"] == len(report["findings"]) == count
        assert len({found["key"]["runtime_id"] for found in report["findings"]}) == count


INTERRUPTED = r"""
import sys, tempfile
from runtimestore_server.cli import run
write, seen = tempfile.SpooledTemporaryFile.write, []
def written(spool, data):
    seen.append(1)
    if len(seen) == 4000:
        write(spool, data[:100])
        raise KeyboardInterrupt
    return write(spool, data)
tempfile.SpooledTemporaryFile.write = written
sys.exit(run(["verify", *sys.argv[1:]]))
"""


def test_ctrl_c_in_the_middle_of_a_finding_keeps_those_that_are_whole(file: Path) -> None:
    _damaged(file, 6000)

    done = run(
        *("--database-url", f"sqlite:///{file}", "--json", "--report", "found.json"),
        cwd=file.parent,
        command=(sys.executable, "-c", INTERRUPTED),
    )

    assert (done.returncode, done.stderr) == (130, "")
    report = json.loads(done.stdout)
    assert report == json.loads((file.parent / "found.json").read_text())
    assert (report["complete"], report["errors"], len(report["findings"])) == (False, 3999, 3999)
    assert {path.name for path in file.parent.iterdir()} == {"store.db", "found.json"}


def test_its_bar_advances_through_every_table(file: Path) -> None:
    _damaged(file, 1234)
    terminal, side = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "verify", "--database-url", f"sqlite:///{file}", "--json"],
        env=environment_with({"TERM": "xterm", "COLUMNS": "120"}),
        stdout=subprocess.DEVNULL,
        stderr=side,
    ) as process:
        os.close(side)
        shown = b"".join(_read(terminal)).decode()

    assert process.returncode == 1
    *_, last = (line for line in shown.splitlines() if "runtimes" in line)
    assert "1234/1234" in last
    assert "\u2501" in last


def _read(terminal: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as opened:
        while piece := opened.read(65536):  # ends with an error once nobody has the other side open
            yield piece


PEAK = r"""
import re, sys
from runtimestore_server.cli import run
assert run(["verify", *sys.argv[1:]]) == 1
sys.stderr.write(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc to read the peak from")
@pytest.mark.parametrize("options", [(), ("--json", "--report", "found.json")])
def test_its_memory_does_not_grow_with_what_it_finds(file: Path, options: tuple[str, ...]) -> None:
    peaks = []
    for count in (5000, 25_000):
        _damaged(file, count)
        done = run(
            *("--database-url", f"sqlite:///{file}", *options),
            cwd=file.parent,
            command=(sys.executable, "-c", PEAK),
        )
        peaks.append(int(done.stderr) * 1024)
        assert done.stdout.count("\n") > count
        _execute(file, "DELETE FROM runtimes")

    few, many = peaks
    assert many - few < 8 * MIB, peaks
