"""By which columns the tables can be split over partitions or nodes: what docs/scale.md says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import UniqueConstraint

from bench.partitioning import LARGE
from runtimestore_server.store import tables

if TYPE_CHECKING:
    from sqlalchemy import Table

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = {"store_identity"}
"""One row, which each node has whole."""


def unique_keys(table: Table) -> list[set[str]]:
    """The columns of each key that is unique: Postgres and Citus want in each of them what they split by."""
    keys = [{column.name for column in table.primary_key}]
    keys += [{column.name for column in index.columns} for index in table.indexes if index.unique]
    keys += [{column.name for column in one.columns} for one in table.constraints if isinstance(one, UniqueConstraint)]
    return keys


def test_the_realm_is_in_every_unique_key_so_that_every_table_can_be_distributed_by_it() -> None:
    distributed = [table for table in tables.metadata.sorted_tables if table.name not in REFERENCE]

    assert [table.name for table in distributed if not all("realm" in key for key in unique_keys(table))] == []
    assert {table.name for table in distributed} | REFERENCE == set(tables.metadata.tables)
    assert [table.name for table in tables.metadata.sorted_tables if table.foreign_keys] == []


def test_the_large_tables_can_be_split_by_realm_and_runtime_and_three_others_cannot_be_by_runtime() -> None:
    by_runtime = {
        name
        for name, table in tables.metadata.tables.items()
        if all({"realm", "runtime_id"} <= key for key in unique_keys(table))
    }

    assert {table.name for table in LARGE} <= by_runtime
    assert set(tables.metadata.tables) - by_runtime == {
        "requests",
        "sessions",
        "oauth_flow_snapshots",
        "store_identity",
    }


@pytest.mark.slow
def test_a_server_and_verify_find_nothing_wrong_with_partitioned_copies_and_all_are_measured() -> None:
    small = ("--runtimes", "40", "--partitions", "3", "--batch", "5", "--rounds", "1", "--seconds", "0.05")
    done = subprocess.run(
        (sys.executable, "-m", "bench.partitioning", *small),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )

    assert done.returncode == 0, done.stderr
    for layout in ("plain", "hash", "realm"):
        assert f"{layout}: a server starts on it, and verify exits with 0" in done.stdout
    for kind in ("a boundary", "a session", "inputs"):
        assert kind in done.stdout
