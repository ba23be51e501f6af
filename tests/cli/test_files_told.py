"""A file that cannot be a store is told of in a sentence of its own, whichever command meets it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from runtimestore_server.store.schema import upgrade
from support.faults.sqlite_pages import PAGE_BYTES, overwrite, root_page
from support.servers.command import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = ("serve", "migrate", "verify")
EXIT_CODES = {"serve": 1, "migrate": 1, "verify": 2}


def _no_folder(folder: Path) -> Path:
    return folder / "nothing" / "store.db"


def _no_database(folder: Path) -> Path:
    (folder / "text.db").write_text("no database at all " * 100)
    return folder / "text.db"


def _folder(folder: Path) -> Path:
    (folder / "folder").mkdir()
    return folder / "folder"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "store.db"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (_no_folder, "there is no "),
    "no database": (_no_database, "the file is no SQLite database"),
    "a folder": (_folder, "is a folder, not a file"),
    "below a file": (_below_a_file, "no folder"),
    "a pipe": (_pipe, "is no regular file"),
}


def _told(command: str, file: Path, cwd: Path) -> str:
    done = run(command, "--database-url", f"sqlite:///{file}", cwd=cwd)
    assert done.returncode == EXIT_CODES[command], done.stderr
    assert "Traceback" not in done.stderr
    assert "does not answer" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_store_is_told_in_one_sentence_of_its_own(tmp_path: Path, command: str, kind: str) -> None:
    make, sentence = KINDS[kind]

    assert sentence in _told(command, make(tmp_path), tmp_path)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_store_that_is_damaged_where_it_is_looked_at_first_is_told_as_damage(tmp_path: Path, command: str) -> None:
    file = tmp_path / "store.db"
    upgrade(f"sqlite:///{file}")
    overwrite(file, root_page(file, "alembic_version"), 0, bytes(PAGE_BYTES))

    assert "the file is damaged" in _told(command, file, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_may_not_be_read_is_told_with_the_user(tmp_path: Path, command: str) -> None:
    (tmp_path / "store.db").touch(mode=0o000)

    told = _told(command, tmp_path / "store.db", tmp_path)

    assert f"may not be read by this user ({os.geteuid()})" in told


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "url", ["sqlite://store.db", "sqlite:store.db", "sqlite:/store.db", "sqlite://folder/store.db"]
)
def test_a_url_that_lacks_a_slash_is_told_which(tmp_path: Path, command: str, url: str) -> None:
    done = run(command, "--database-url", url, cwd=tmp_path)

    assert done.returncode == 2
    assert "sqlite:///FILE with three" in done.stderr
    assert "sqlite:////FOLDER/FILE with four" in done.stderr
