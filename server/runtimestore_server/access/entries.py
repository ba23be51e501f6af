"""Adds entries to an access file, so that a server that reads it meanwhile finds it whole."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runtimestore._files import read_regular
from runtimestore_server.access.access_file import MOST_BYTES, named
from runtimestore_server.access.rules import Unusable, parsed
from runtimestore_server.access.tokens import digest_of, new_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime


def add_token(
    path: Path,
    name: str,
    realms: Sequence[str],
    access: str,
    until: datetime | None,
    *,
    show: Callable[[str], None],
) -> None:
    """Add an entry with a new token to an access file, which is made if it is missing.

    What the file holds stays as it is, comments too. A name may have any number of entries: that is how its token is
    changed. The token is shown before the entry is written: what `show` raises leaves the file as it is, and no token
    is in force that nobody has seen.

    Raises:
        Unusable: the file cannot be used or written, or the entry would not be one.
    """
    path = path.resolve()  # a link stays one
    token = new_token()
    lines = [
        "[[principal]]",
        f"name = {json.dumps(name)}",
        f'token_sha256 = ["{digest_of(token).hex()}"]',
        f"realms = {json.dumps(list(realms))}",
        f"access = {json.dumps(access)}",
    ]
    if until is not None:
        lines.append(f"until = {until.isoformat()}")
    entry = "\n".join(lines) + "\n"
    try:
        parsed(entry)
    except Unusable as wrong:
        raise Unusable(str(wrong).partition(": ")[2]) from None
    with named(path), _alone_in(path.parent):
        before = "# Who may come in; see docs/operations.md. A server reads it anew when it changes.\n"
        if path.exists():
            before = read_regular(path, MOST_BYTES)[0].decode()
        after = f"{before.rstrip()}\n\n{entry}"
        parsed(after)
        _replace(path, after, ready=lambda: show(token))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others who add entries out meanwhile: theirs would be lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str, *, ready: Callable[[], None]) -> None:
    """Put a text in the place of a file, whole and on the disk, with the owner and the rights that the file has.

    `ready` is called when nothing but the last step is left; what it raises leaves the file as it is.
    """
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  (a descriptor, not a path)
            file.write(text)
            if path.exists():
                status = path.stat()
                os.fchmod(file.fileno(), status.st_mode & 0o777)
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
            else:
                os.fchmod(file.fileno(), 0o600)
            file.flush()
            os.fsync(file.fileno())
        ready()
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink()
        raise
