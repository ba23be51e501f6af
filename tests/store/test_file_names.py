"""Files whose names mean something in a URL: each way to open a store's file opens that file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.engine import URL

from runtimestore_server.store.engines import open_database, open_to_read
from runtimestore_server.store.engines.store_file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTED = "SELECT count(*) FROM t"
FOLDERS = {"one slash": "{}", "two slashes": "/{}", "three slashes": "//{}"}
NAMES = ("store.db", "a b.db", "100%.db", "%41.db", "a?mode=memory.db", "a#b.db", "a&b=c;d.db", "Zürich.db")


def _by_a_reader(path: str) -> int:
    database = open_to_read(_url(path))
    try:
        with database.snapshot() as tx:
            return int(tx.exec_driver_sql(COUNTED).scalar_one())
    finally:
        database.dispose()


def _by_itself(path: str) -> int:
    with contextlib.closing(open_file(Path(path))) as connection:
        return int(connection.execute(COUNTED).fetchone()[0])


def _url(path: str) -> str:
    return URL.create("sqlite", database=path).render_as_string()


@pytest.mark.parametrize("opened", [_by_a_reader, _by_itself])
@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_opened_whatever_its_name(
    tmp_path: Path, name: str, folder: str, opened: Callable[[str], int]
) -> None:
    path = f"{folder.format(tmp_path)}/{name}"
    database = open_database(_url(path), committer_threads=1, reader_threads=1)
    try:
        with database.writers.begin() as tx:
            tx.exec_driver_sql("CREATE TABLE t (a)")
            tx.exec_driver_sql("INSERT INTO t VALUES (1), (2)")
    finally:
        database.dispose()

    assert opened(path) == 2
    assert (tmp_path / name).is_file()
