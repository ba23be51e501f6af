"""A disk that keeps nothing but what was synced, and whose syncs fail when told to; see lost_pages.c."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class LostPages:
    """The disk under one database file."""

    def __init__(self, library: Path, database: Path, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        shutil.copyfile(database, folder / "store.db")  # what is there before counts as synced
        self.environment = {
            "LD_PRELOAD": str(library),
            "LOST_PAGES_FILE": str(database),
            "LOST_PAGES_FOLDER": str(folder),
        }

    def fail(self, *, database: bool, log: bool) -> None:
        """From now on syncs of these files fail, and those of the others do not."""
        for name, failing in (("fail-db", database), ("fail-wal", log)):
            if failing:
                (self._folder / name).touch()
            else:
                (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def failing(self, *, database: bool = False, log: bool = False) -> Iterator[None]:
        """Inside, syncs of these files fail."""
        self.fail(database=database, log=log)
        try:
            yield
        finally:
            self.fail(database=False, log=False)

    def syncs(self, letters: str) -> int:
        """How many there were: of the database (d, failed D) and of its log (w, failed W)."""
        file = self._folder / "syncs"
        seen = file.read_text() if file.exists() else ""
        return sum(seen.count(letter) for letter in letters)

    def after_power_loss(self, folder: Path) -> str:
        """The URL of what a machine finds that lost power now."""
        folder.mkdir()
        for name in ("store.db", "store.db-wal"):
            if (self._folder / name).exists():
                shutil.copyfile(self._folder / name, folder / name)
        return f"sqlite:///{folder}/store.db"
