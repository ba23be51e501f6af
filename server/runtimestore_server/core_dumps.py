"""Keeps the memory of a command, which holds documents, tokens and passwords, out of files that a crash leaves."""

from __future__ import annotations

import contextlib
import resource


def write_none() -> None:
    """Let a crash of this process leave no dump; who needs one raises the limit of the process while it runs."""
    with contextlib.suppress(OSError, ValueError):  # what cannot be set is an even lower limit
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        # At a limit of one byte Linux makes no dump at all. A file would be larger; and the program that takes dumps
        # through a pipe, where `kernel.core_pattern` names one, is started at any limit but this.
        resource.setrlimit(resource.RLIMIT_CORE, (1 if hard else 0, hard))
