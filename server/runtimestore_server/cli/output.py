"""Writes to standard output; a failure of that ends a command in one sentence, never in a traceback."""

from __future__ import annotations

import contextlib
import os
import sys

from runtimestore_server.cli.refusals import Refused, complain


def show(*lines: str, code: int = 1) -> None:
    """Write lines to standard output, and see that it has taken them.

    Raises:
        Refused: it is closed, or takes no more.
    """
    if (problem := _written(lines)) is not None:
        raise Refused(problem, code=code)


def show_if_possible(*lines: str) -> None:
    """Write lines about what is done already; failing to write is reported, and leaves the exit code as it is."""
    if (problem := _written(lines)) is not None:
        complain(problem)


def _written(lines: tuple[str, ...]) -> str | None:
    """Write lines; what is wrong where that cannot be done."""
    if sys.stdout is None:
        return "standard output is closed"
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        return f"standard output cannot be written: {error.strerror or error}"
    except UnicodeEncodeError:
        return "standard output cannot be written: its encoding has not all of the letters; set PYTHONUTF8=1"
    return None


def discard_output() -> None:
    """Discard what standard output still buffers, or the interpreter fails over it as it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
