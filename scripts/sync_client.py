"""Makes the client for threads, sync.py, from the client for asyncio, aio.py.

`python -m scripts.sync_client [PATH]`. It rewrites tokens, not the syntax tree: Python's own tree has no comments, and
a library whose tree keeps them would be one more dependency for what is a deletion of two keywords and a few names.
"""
# ruff: noqa: INP001 - a script beside the packages

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = Path(__file__).resolve().parents[1] / "client/python/runtimestore"

HEADER = "# Generated from aio.py by `make sync-client`. Do not edit: change aio.py.\n"

NAMES = {
    "AsyncRuntimeStoreClient": "RuntimeStoreClient",
    '"AsyncRuntimeStoreClient"': '"RuntimeStoreClient"',
    "AsyncConnection": "Connection",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "asyncio": "time",  # for sleep alone
}
"""What a token is called in the client for threads."""

TEXTS = {
    '''"""The thin client for asyncio: the trait's methods in snake_case.

`sync.py` is made from this file by `make sync-client`; what differs between the two transports is in `_connection.py`.
One class with a method for each of the service's is longer than modules are elsewhere; apart, one would search them.
"""''': '"""The thin client for threads: the trait\'s methods in snake_case."""',
    "import inspect\n": "",
    "    import grpc.aio\n": "",
    "import Awaitable, Callable": "import Callable",
    "Callable[[float, Metadata], Awaitable[R]]": "Callable[[float, Metadata], R]",
    "bytes | Awaitable[bytes]": "bytes",
    "by what `update`, a function or a coroutine function, makes of it": "by what `update` makes of it",
    "made = update(current.snapshot_json)": "snapshot_json = update(current.snapshot_json)",
    "            snapshot_json = await made if inspect.isawaitable(made) else made\n": "",
    "    It may be built anywhere and belongs to the event loop of its first call: in another one it raises "
    "`RuntimeError`.\n    Any number of calls may run at once.\n": "    Any number of threads may use it at once.\n",
    "A write that was cancelled, or raised": "A write that raised",
}
"""What is said or done otherwise. Each stands in aio.py once, or nothing is made."""


def of_threads(source: str) -> str:
    """The source of the client for threads."""
    for ours, theirs in TEXTS.items():
        if source.count(ours) != 1:
            raise SystemExit(
                f"aio.py has {source.count(ours)} times what scripts/sync_client.py replaces once: {ours!r}"
            )
        source = source.replace(ours, theirs)
    lines = source.splitlines(keepends=True)
    # From the end, so that what comes before stays where it is.
    for (row, column), end, text in sorted(_changes(source), reverse=True):
        lines[row - 1] = lines[row - 1][:column] + text + lines[row - 1][end:]
    return HEADER + "".join(lines)


def _changes(source: str) -> Iterator[tuple[tuple[int, int], int, str]]:
    """Where a token is replaced, the column at which what is replaced ends, and what comes in its place."""
    for token, following in itertools.pairwise(tokenize.generate_tokens(io.StringIO(source).readline)):
        if token.string in {"async", "await"}:
            yield token.start, following.start[1], ""
        elif token.string == "." and following.string == "aio":
            yield token.start, following.end[1], ""  # grpc.aio.Channel is grpc.Channel here
        elif token.string in NAMES:
            yield token.start, token.end[1], NAMES[token.string]


def main(path: Path) -> None:
    """Write the client for threads to a file."""
    source = of_threads((CLIENT / "aio.py").read_text(encoding="utf-8"))
    ruff = Path(sys.executable).with_name("ruff")
    formatted = subprocess.run(  # noqa: S603  (the formatter beside this Python)
        [ruff, "format", "--stdin-filename", CLIENT / "sync.py", "-"], input=source.encode(), stdout=-1, check=True
    )
    path.write_bytes(formatted.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else CLIENT / "sync.py")
