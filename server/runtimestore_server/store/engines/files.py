"""Asks the system about an SQLite file and its medium: why it cannot be used, and whether there is room."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

_WRITE_CODES = (10, 778)
_ROOM_CODES = (*_WRITE_CODES, 1034, 4874)
"""SQLite's codes IOERR and IOERR_WRITE, and IOERR_FSYNC and IOERR_SHMSIZE beside them: sqlite.org/rescode.html. Of the
extended ones pysqlite3 has no names, and it tells IOERR for all."""

_ASKED_BYTES = 128 * 1024
"""How much room is asked for; more than SQLite writes at once."""


def is_full(code: int, file: str) -> bool:
    """Tell whether an error of writing was for want of room.

    SQLite tells ENOSPC by a code of its own. A quota that is used up (EDQUOT) and a limit of the size of files (EFBIG)
    it tells in one word with a broken disk, and the system's word it keeps; so that is asked for once more.
    """
    return code in _ROOM_CODES and _refusal_of_room(file) in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_refused_write(code: int, file: str) -> bool:
    """Tell whether an error is that of a failed write, even if a sync reported it: the record is then incomplete.

    Who is refused at once by a quota or a limit would not have come to the sync. ENOSPC it would not tell so.
    """
    return code in _WRITE_CODES and _refusal_of_room(file) in {errno.EDQUOT, errno.EFBIG}


def _refusal_of_room(file: str) -> int | None:
    """Return the system's number for why it gives no more room; None if it does."""
    try:
        _ask_for_room(Path(os.path.realpath(file)))
    except OSError as error:
        return error.errno
    return None


def _ask_for_room(file: Path) -> None:
    """Write as much as SQLite would, where its longest file ends, into a file that nobody sees.

    Raises:
        OSError: the system refused.
    """
    sizes = [0]
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            sizes.append(Path(f"{file}{suffix}").stat().st_size)
    begin = max(sizes)
    with tempfile.TemporaryFile(dir=file.parent, buffering=0) as asked:
        written = 0
        while written < _ASKED_BYTES:  # what is cut at a limit is no error, but the next write is
            written += os.pwrite(asked.fileno(), bytes(_ASKED_BYTES - written), begin + written)


def file_problem(file: str, *, to_read: bool = False) -> str | None:
    """Say why a file cannot be used as a store, and the cure, as far as the system tells; None if it can be tried."""
    path = Path(file)
    try:
        found = path.stat()
    except FileNotFoundError:
        return _problem_of_creating(path, to_read=to_read)
    except NotADirectoryError:
        return f"{file}: a part of the path is no folder; see --database-url"
    except OSError as error:
        return f"{file}: {error.strerror}; see --database-url"
    if stat.S_ISDIR(found.st_mode):
        problem = "is a folder, not a file; see --database-url"
    elif not stat.S_ISREG(found.st_mode):
        problem = "is no regular file; see --database-url"
    elif not os.access(path, os.R_OK):
        problem = f"may not be read by this user ({os.geteuid()}): change its owner or its mode"
    else:
        return None
    return f"{file} {problem}"


def _problem_of_creating(path: Path, *, to_read: bool) -> str | None:
    if to_read:
        return f"there is no file {path}; see --database-url"
    folder = Path(os.path.realpath(path)).parent
    if not folder.exists():
        return f"there is no folder {folder} to create the file in: make it, or see --database-url"
    if not folder.is_dir():
        return f"{folder} is no folder; see --database-url"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} may not be written by this user ({os.geteuid()}): no file can be created in it"
    return None


def read_only_problem(file: str) -> str | None:
    """Tell whether a file that is there may only be read, and the cure."""
    if os.access(file, os.F_OK) and not os.access(file, os.W_OK):
        return f"the file {file} may only be read: no write is taken until this user may write it"
    return None
