"""`runtimestore verify` of an SQLite file whose pages are damaged: findings and a code, never a traceback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.faults.sqlite_pages import PAGE_BYTES, contents, cut_in_half, on_page, overwrite, replace, root_page
from support.generators.calls import Store, input_of
from support.generators.documents import session
from support.servers.command import run
from support.servers.server import in_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("runner")

ROWS = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "store.db"


async def _store(file: Path) -> None:
    async with in_process(f"sqlite:///{file}") as app, Store(app.address) as store:
        for number in range(ROWS):
            await store.commit_session_snapshot(f"rt:{number}", session("x" * 20_000))
            await store.persist_input_state(f"rt:{number}", input_of("a"))


def _verified(file: Path, *, exit_code: int) -> dict[str, Any]:
    before = contents(file.parent)
    done = run("verify", "--database-url", f"sqlite:///{file}", "--json", cwd=file.parents[1])
    assert (done.returncode, done.stderr) == (exit_code, "")
    assert contents(file.parent) == before
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_a_file_that_is_cut_off_is_damage_and_what_to_do_is_told(file: Path) -> None:
    await _store(file)
    cut_in_half(file)

    report = _verified(file, exit_code=1)

    told = [found["description"] for found in report["findings"] if found["kind"] == "engine_damage"]
    assert any("database disk image is malformed" in description for description in told)
    assert any("restore a backup" in description for description in told)


@pytest.mark.parametrize("name", ["alembic_version", "store_identity"])
async def test_a_page_of_zeros_where_it_looks_first_is_damage(file: Path, name: str) -> None:
    await _store(file)
    overwrite(file, root_page(file, name), 0, bytes(PAGE_BYTES))

    report = _verified(file, exit_code=1)

    assert {found["kind"] for found in report["findings"]} == {"engine_damage"}
    assert any("restore a backup" in found["description"] for found in report["findings"])


async def test_a_file_whose_first_page_is_zeros_is_hardly_known_as_a_store(file: Path, tmp_path: Path) -> None:
    await _store(file)
    overwrite(file, 1, 0, bytes(PAGE_BYTES))

    done = run("verify", "--database-url", f"sqlite:///{file}", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "restore a backup if it was a store" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"sqlite_autoindex_inputs_1", b"s\xf1lite_autoindex_inputs_1", "malformed database schema"),
        (b"runtime_state TEXT", b"runtime_stale TEXT", "no such column: runtimes.runtime_state"),
    ],
)
async def test_a_schema_that_rots_is_damage_even_where_no_driver_can_spell_it(
    file: Path, old: bytes, new: bytes, told: str
) -> None:
    await _store(file)
    replace(file, old, new)

    report = _verified(file, exit_code=1)

    assert any(told in found["description"] for found in report["findings"])


async def test_an_index_whose_page_is_garbage_is_told_and_the_rest_is_looked_at(file: Path) -> None:
    await _store(file)
    # What it says is no longer what the table says.
    overwrite(file, root_page(file, "sqlite_autoindex_session_versions_1"), 8, b"\xff" * 4000)

    report = _verified(file, exit_code=1)

    assert "engine_damage" in {found["kind"] for found in report["findings"]}
    assert report["rows"]["inputs"] == ROWS


async def test_an_index_that_leads_past_rows_is_told_though_nothing_fails(file: Path) -> None:
    await _store(file)
    page = root_page(file, "sqlite_autoindex_inputs_1")
    cells = int.from_bytes(on_page(file, page, 3, 2), "big")
    overwrite(file, page, 3, (cells - 5).to_bytes(2, "big"))

    report = _verified(file, exit_code=1)

    assert {found["kind"] for found in report["findings"]} == {"engine_damage"}
    assert any("missing from index sqlite_autoindex_inputs_1" in found["description"] for found in report["findings"])
    assert report["rows"]["session_versions"] == ROWS


async def test_fewer_rows_than_the_engine_counts_are_told(file: Path) -> None:
    await _store(file)
    page = root_page(file, "sessions")
    assert on_page(file, page, 0, 1) == b"\x0a", "the tree of sessions has grown beyond a page: make fewer"
    overwrite(file, page, 3, (ROWS - 5).to_bytes(2, "big"))

    report = _verified(file, exit_code=1)

    told = [found["description"] for found in report["findings"] if found["table"] == "sessions"]
    assert told == [f"the engine counts {ROWS} rows here, and hands out {ROWS - 5}"]


async def test_an_index_that_no_row_is_read_by_is_looked_at_too(file: Path) -> None:
    await _store(file)
    page = root_page(file, "requests_recorded_at_ms")
    last = on_page(file, page, PAGE_BYTES - 1, 1)[0]
    overwrite(file, page, PAGE_BYTES - 1, bytes([last ^ 1]))  # the id in its first entry

    report = _verified(file, exit_code=1)

    assert {found["kind"] for found in report["findings"]} == {"engine_damage"}
    assert any("requests_recorded_at_ms" in found["description"] for found in report["findings"])
    assert report["complete"]
