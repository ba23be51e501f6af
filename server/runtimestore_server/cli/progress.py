"""A bar on standard error for commands that take long; nothing where that is no terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rich.progress


class Bar:
    """How far each step is."""

    def __init__(self, shown: rich.progress.Progress) -> None:
        self._shown = shown
        self._task: rich.progress.TaskID | None = None

    def begin(self, step: str, total: int) -> None:
        """Show a new step, whose predecessors are over."""
        if self._task is not None:
            self._shown.remove_task(self._task)
        self._task = self._shown.add_task(step, total=total or None)

    def advance(self, done: int) -> None:
        """Show how much of it is done in all."""
        if self._task is not None:
            self._shown.update(self._task, completed=done)


@contextlib.contextmanager
def progress() -> Iterator[Bar]:
    """Show progress until the work inside is over."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        yield Bar(shown)
