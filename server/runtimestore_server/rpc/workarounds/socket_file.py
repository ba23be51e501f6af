"""Keeps the file of a Unix socket for the server that listens now, whatever gRPC unlinks when another one stops.

**The defect.** A gRPC server remembers the path that it was bound to and unlinks it when it stops, or late after it
stopped by itself, whoever's socket is there by then. Where a new server has made its own, nobody finds that any more.

**Upstream.** No issue is known. To see it::

    first = grpc.aio.server(); first.add_insecure_port("unix:served.sock"); await first.start()
    os.unlink("served.sock")
    second = grpc.aio.server(); second.add_insecure_port("unix:served.sock"); await second.start()
    await first.stop(0)
    assert os.path.exists("served.sock")  # fails

So each server is bound to a name of its own, and the file is renamed to the one that callers know: gRPC unlinks a name
that is no more. The file that callers know is removed here, by whoever made it.

**Held by** `tests/faults/test_serving_on.py::test_a_socket_whose_file_goes_again_and_again_keeps_no_former_server`.

**May go** when that passes with servers that are bound to the path itself.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class SocketFile:
    """The file by which callers find the server that listens."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._made: tuple[int, int] | None = None

    @property
    def gone(self) -> bool:
        """Whether nobody finds the server any more."""
        return not self._path.exists()

    def listen(self, bind: Callable[[str], object]) -> None:
        """Have a server bound, to the path that `bind` is given, and put its file where callers look.

        Raises:
            OSError: something else is there, or the folder cannot be written.
        """
        if (self._path.exists() or self._path.is_symlink()) and not self._path.is_socket():
            raise FileExistsError(self._path)  # gRPC too replaces nothing but sockets
        letters = min(max(len(self._path.name) - 1, 4), 16)  # paths of sockets are short: as long as callers' own name
        own = self._path.with_name(f".{secrets.token_hex(16)[:letters]}")
        bind(str(own))
        try:
            found = own.stat()
            own.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                own.unlink()
            raise
        self._made = found.st_dev, found.st_ino

    def remove(self) -> None:
        """Remove the file, if it is the one that was made here last."""
        with contextlib.suppress(OSError):
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == self._made:
                self._path.unlink()
