"""What people see of the demo: lines as it goes, a progress bar in a terminal, a table at the end."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from examples.recovery.contents import Contents
    from examples.recovery.runtime import Recovery
    from runtimestore import Commit, RuntimeStoreError

SHOWN_DIGITS = 16
UNDER_TEXT = "\n          "
"""Begins the second line of what would be wider than 80 columns."""


class Output:
    """Prints what happens, as a context manager; without a terminal it is plain lines."""

    def __init__(self, pace_seconds: float) -> None:
        self._pace_seconds = pace_seconds
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("turn"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._turns: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def server_serves(self, pid: int, address: str) -> None:
        """A server is ready."""
        self._say(f"[bold]server[/]    process {pid} serves on {address}, on a SQLite file")

    def runtime_starts(self, runtime_id: str, turns: int) -> None:
        """The runtime begins."""
        self._say(f"[bold]runtime[/]   {runtime_id}")
        self._turns = self._progress.add_task("turns", total=turns)

    def turn_done(self, turn: int, acknowledged: Contents, commit: Commit) -> None:
        """A turn is committed."""
        session_bytes = len(acknowledged.session or b"")
        self._say(
            f"turn {turn:>2}   session {session_bytes:>6} B  {len(acknowledged.inputs):>2} inputs  "
            f"{len(acknowledged.receipts):>2} receipts  revision {commit.revision:>2}  [green]acknowledged[/]"
        )
        self._advance_to(turn)

    def crash_comes(self, turn: int) -> None:
        """The apply of a turn is about to be sent."""
        self._say(f"turn {turn:>2}   AtomicApply is sent …")
        self._pause()

    def crashed(self, pid: int, error: RuntimeStoreError | None) -> None:
        """The server is dead."""
        answer = f"no answer came ({type(error).__name__})" if error else "the answer came a moment before"
        self._say(f"[bold red]SIGKILL[/]   process {pid} is gone in the middle of the commit;{UNDER_TEXT}{answer}")
        self._pause()

    def recovered(self, recovery: Recovery, *, landed: bool | None) -> None:
        """The runtime has read everything back."""
        found = recovery.found
        state = found.runtime_state.value if found.runtime_state else "absent"
        self._say(
            f"[bold]recovery[/]  state {state}, session {len(found.session or b'')} B, {len(found.inputs)} inputs, "
            f"{len(found.receipts)} receipts,{UNDER_TEXT}ops snapshot {len(found.ops or '')} B"
        )
        self._say(f"          inputs with their receipt, consumed: {len(recovery.consumed)}")
        self._say(f"          inputs without one, queued again: {len(recovery.queued)}")
        if landed is not None:
            verdict = "there, whole" if landed else "not there, no part of it"
            self._say(
                f"          the commit without an answer is {verdict};{UNDER_TEXT}"
                "everything acknowledged before it is equal"
            )

    def repeated(self, request_id: str, commit: Commit) -> None:
        """The unacknowledged apply was sent again."""
        verdict = (
            "replayed: it had landed, nothing was changed" if commit.replayed else "applied now: it had not landed"
        )
        self._say(f"[bold]repeat[/]    request {request_id}:{UNDER_TEXT}{verdict}, revision {commit.revision}")
        self._pause()

    def compared(self, acknowledged: Contents, found: Contents) -> None:
        """Everything was read and compared at the end."""
        self._progress.stop()
        table = Table(
            "what",
            "count",
            "bytes",
            "acknowledged",
            "read back",
            "equal",
            title="SHA-256 of everything",
            box=box.SIMPLE,
        )
        for column in table.columns[1:3]:
            column.justify = "right"
        for was, read in zip(_rows(acknowledged), _rows(found), strict=True):
            equal = "[green]✓[/]" if was == read else "[red]✗[/]"
            table.add_row(was.what, f"{read.values}", f"{read.size_bytes}", was.digest, read.digest, equal)
        self._console.print(table)
        self._say(
            f"[bold green]every byte equal[/]: session, {len(found.inputs)} inputs, {len(found.receipts)} receipts, "
            "ops snapshot and state\nare what had been acknowledged"
        )

    def failed(self, problem: str) -> None:
        """The demo ends badly."""
        self._progress.stop()
        self._say(f"[bold red]failed[/]: {escape(problem)}")

    def _advance_to(self, turn: int) -> None:
        if self._turns is not None:
            self._progress.update(self._turns, completed=turn)
        self._pause()

    def _pause(self) -> None:
        time.sleep(self._pace_seconds)

    def _say(self, line: str) -> None:
        self._console.print(line)


class _Row(NamedTuple):
    """All values of one kind, in few words."""

    what: str
    values: int
    size_bytes: int
    digest: str


def _rows(contents: Contents) -> list[_Row]:
    documents: dict[str, list[str | bytes]] = {
        "session": [contents.session or b""],
        "inputs": [contents.inputs[key] for key in sorted(contents.inputs)],
        "receipts": [repr(contents.receipts[key]) for key in sorted(contents.receipts)],
        "ops snapshot": [contents.ops or ""],
        "runtime state": [contents.runtime_state.value if contents.runtime_state else ""],
    }
    return [_row(what, values) for what, values in documents.items()]


def _row(what: str, values: list[str | bytes]) -> _Row:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    digests = b"".join(hashlib.sha256(value).digest() for value in encoded)
    digest = hashlib.sha256(encoded[0] if len(encoded) == 1 else digests).hexdigest()
    return _Row(what, len(encoded), sum(map(len, encoded)), digest[:SHOWN_DIGITS])
