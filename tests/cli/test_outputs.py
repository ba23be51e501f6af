"""A command whose standard output is closed, or takes no more, says so; no token is in force that nobody has seen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runtimestore_server.access.rules import parsed
from support.servers.access import access_file, entry, new_token
from support.servers.command import run
from support.servers.server_process import COMMAND, WAIT_SECONDS, environment_with

NEW = ("token", "new", "agents", "--realm", "default", "--access", "read", "--access-file", "access.toml")
FULL = ("> /dev/full", "No space left on device")
CLOSED = (">&-", "standard output is closed")

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def _shell(arguments: tuple[str, ...], redirection: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as people start it: what the interpreter does at its end belongs to it."""
    line = f'"$@" {redirection}'
    command = ["sh", "-c", line, "sh", *COMMAND, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment_with({}), capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
    )


@pytest.mark.parametrize(("redirection", "told"), [FULL, CLOSED])
def test_a_token_that_cannot_be_shown_is_not_added(tmp_path: Path, redirection: str, told: str) -> None:
    before = access_file(tmp_path / "access.toml", [entry("one", new_token())]).read_text()

    done = _shell(NEW, redirection, tmp_path)

    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "access.toml").read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["access.toml"]


@pytest.mark.parametrize(("redirection", "told"), [FULL, CLOSED])
def test_what_has_only_something_to_show_ends_in_one_sentence(tmp_path: Path, redirection: str, told: str) -> None:
    access_file(tmp_path / "access.toml", [entry("one", new_token())])

    done = _shell(("token", "list", "--access-file", "access.toml"), redirection, tmp_path)

    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("redirection", "told"), [FULL, CLOSED])
def test_what_is_done_counts_as_done_though_its_report_is_lost(tmp_path: Path, redirection: str, told: str) -> None:
    assert run("migrate", "--database-url", "sqlite:///store.db", cwd=tmp_path).returncode == 0

    taken = _shell(("backup", "--database-url", "sqlite:///store.db", "taken.backup"), redirection, tmp_path)
    put_back = _shell(("restore", "--database-url", "sqlite:///other.db", "taken.backup"), redirection, tmp_path)

    for done in (taken, put_back):
        assert done.returncode == 0
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    "until", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2027-01-01T00:00:00+02:00"]
)
def test_an_end_in_any_year_that_the_file_can_name_is_listed(tmp_path: Path, until: str) -> None:
    path = access_file(tmp_path / "access.toml", [entry("one", new_token(), until=f"@{until}")])
    path.write_text(path.read_text().replace(f"'@{until}'", until))
    assert parsed(path.read_text()).entries

    done = run("token", "list", "--access-file", "access.toml", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("one  write  default  1 token  until ")
    assert ("(ended)" in done.stdout) is (until < "2026")
