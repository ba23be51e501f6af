"""Reads files whose paths somebody gave: certificates, tokens, and the server's access file."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_regular(path: str | Path, most_bytes: int) -> tuple[bytes, os.stat_result]:
    """Read a file, and its status as of before that. Waits for no pipe, and reads no device without an end.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than that.
    """
    # A pipe would wait for who writes into it; not every system has the flag.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes} bytes", str(path))
    return content, status
