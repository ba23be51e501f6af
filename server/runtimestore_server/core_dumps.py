"""Keeps the memory of a command, which holds documents, tokens and passwords, out of files that a crash leaves."""

from __future__ import annotations

import contextlib
import resource

NONE_BYTES = 1
"""The limit at which Linux makes no dump at all. A file would be larger; and what takes dumps through a pipe, where
`kernel.core_pattern` names such a program, is started at any limit but this. Other systems write no file so small."""


def write_none() -> None:
    """Let a crash of this process leave no dump; who needs one raises the limit of the process while it runs."""
    with contextlib.suppress(OSError, ValueError):  # what cannot be set is an even lower limit
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (NONE_BYTES if hard else 0, hard))
