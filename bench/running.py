"""Runs the programs of bench until they are done or told to end, so that nothing of them stays behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc.aio


def exit_with(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Exit with what `main` makes of the command line.

    As Ctrl-C does, SIGTERM leaves through every `finally`: no server stays behind, and what is measured is written.
    """
    for ended in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ended, lambda number, _frame: sys.exit(128 + number))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


async def serve_until_told(server: grpc.aio.Server) -> None:
    """Serve on a free port, which standard error names as the real server does, until SIGTERM."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stderr.write(f"serving address=127.0.0.1:{port}\n")
    sys.stderr.flush()
    await told.wait()
    await server.stop(1.0)
