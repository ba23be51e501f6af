"""The commands `backup` and `restore` of a test, and the manifest in a backup."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from runtimestore_server.backup import manifest as manifests
from runtimestore_server.store.engines import store_file
from support.servers.command import run

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

    from runtimestore_server.store.engines.sqlite_driver import sqlite3

STORED = "SELECT manifest FROM runtimestore_backup"
CHANGE = "UPDATE runtimestore_backup SET manifest = ?"


def run_backup(url: str, file: Path, *arguments: str) -> CompletedProcess[str]:
    """Start `runtimestore backup` of a store into a file."""
    return run("backup", str(file), "--database-url", url, *arguments, cwd=file.parent)


def run_restore(file: Path, url: str, *arguments: str) -> CompletedProcess[str]:
    """Start `runtimestore restore` of a file into a store."""
    return run("restore", str(file), "--database-url", url, *arguments, cwd=file.parent)


def manifest_of(file: Path) -> manifests.Manifest:
    """What a backup says of itself."""
    with contextlib.closing(store_file.open_file(file)) as connection:
        return manifests.Manifest.from_json(connection.execute(STORED).fetchone()[0])


def change_manifest(connection: sqlite3.Connection, **changes: Any) -> None:
    """Have a backup say something else of itself."""
    (stored,) = connection.execute(STORED).fetchone()
    changed = json.dumps(json.loads(stored) | changes)
    connection.execute(CHANGE, (changed,))
