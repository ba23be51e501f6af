"""Tells what a verification finds: a bar, a line for each finding, and the report as one JSON document.

None of it is kept in memory: findings of a document wait in a temporary file until their number is known.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import textwrap
from typing import IO, TYPE_CHECKING, Self

from runtimestore_server.cli.output import discard_output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.progress import TaskID

    from runtimestore_server.verify.findings import Finding, Report

SPOOL_BYTES = 1024 * 1024
"""How much of the findings is held in memory before they go into a temporary file."""


class CannotTell(Exception):
    """What was found cannot be told; the message says where, and why not."""


class Output:
    """A bar on standard error, if that is a terminal; lines or a document on standard output; a document in a file."""

    def __init__(self, *, as_json: bool, file: Path | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._as_json = as_json
        self._file = file
        self._lost: CannotTell | None = None
        self._findings = _Spool(beside=file)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # an id may not exist in the terminal's encoding
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._findings.close()

    def begin(self, table: str, rows: int) -> None:
        """Begin a table."""
        self._task = self._progress.add_task(table, total=rows)

    def advance(self, rows: int) -> None:
        """Take note that so many more rows of it are done."""
        if self._task is not None:
            self._progress.advance(self._task, rows)

    def found(self, finding: Finding) -> None:
        """Tell of something that is wrong.

        Raises:
            CannotTell: nobody reads it, and no document is wanted either.
        """
        if self._as_json or self._file is not None:
            self._findings.add(finding)
        if not self._as_json and self._lost is None:
            try:
                with _writing("standard output"):
                    sys.stdout.write(finding.line() + "\n")
            except CannotTell as error:
                self._give_up(error)
                if self._file is None:
                    raise

    def finish(self, report: Report) -> None:
        """Tell the end: the report in one line, or as documents.

        Raises:
            CannotTell: not everything could be told.
        """
        self._progress.stop()
        failed = self._lost
        if self._file is not None:
            try:
                with _writing(f"--report {self._file}"), self._file.open("w", encoding="utf-8") as file:
                    self._write_document(report, file)
            except CannotTell as error:  # whoever reads standard output is told nevertheless
                failed = error
        if self._lost is None:
            try:
                with _writing("standard output"):
                    self._write_result(report)
            except CannotTell as error:
                self._give_up(error)
                failed = error
        if failed is not None:
            raise failed

    def _write_result(self, report: Report) -> None:
        if self._as_json:
            self._write_document(report, sys.stdout)
        else:
            sys.stdout.write(report.summary() + "\n")
        sys.stdout.flush()

    def _write_document(self, report: Report, to: IO[str]) -> None:
        empty = json.dumps({**report.as_json(), "findings": []}, indent=2)
        before, after = empty[: -len("]\n}")], empty[-len("]\n}") :]
        to.write(before)
        if self._findings.copy(to):
            to.write("\n  ")
        to.write(after + "\n")

    def _give_up(self, error: CannotTell) -> None:
        self._lost = error
        discard_output()


class _Spool:
    """The findings of a document, one after the other, in memory first and then in a file without a name."""

    def __init__(self, *, beside: Path | None) -> None:
        # The folder of the report has room for it; /tmp may be memory.
        file = beside is not None and (beside.is_file() or not beside.exists())
        near = str(beside.parent) if beside and file and os.access(beside.parent, os.W_OK) else None
        self._where = f"the folder {near}" if near else "the temporary folder ($TMPDIR)"
        self._bytes = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=near)  # noqa: SIM115  (it lives as long as this)
        self._whole_bytes = 0

    def add(self, finding: Finding) -> None:
        """Add one more, whole or not at all: an interruption may come at any time."""
        shown = textwrap.indent(json.dumps(finding.as_json(), indent=2), "    ")
        with _writing(self._where):
            self._bytes.write(f"{',' if self._whole_bytes else ''}\n{shown}".encode())
        self._whole_bytes = self._bytes.tell()

    def copy(self, to: IO[str]) -> bool:
        """Write all of them; whether there were any."""
        with _writing(self._where):
            self._bytes.seek(self._whole_bytes)
            self._bytes.truncate()
            self._bytes.seek(0)
        while piece := self._bytes.read(SPOOL_BYTES):
            to.write(piece.decode("ascii"))  # all else is escaped in JSON
        return self._whole_bytes > 0

    def close(self) -> None:
        """Forget them."""
        with contextlib.suppress(OSError):  # what is buffered for a disk that is full
            self._bytes.close()


@contextlib.contextmanager
def _writing(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotTell(f"{where} cannot be written: {error.strerror or error}") from error
