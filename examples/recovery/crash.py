"""The crash: SIGKILL while an AtomicApply is in flight."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from runtimestore import RuntimeStoreError

if TYPE_CHECKING:
    from pathlib import Path

    from examples.recovery.runtime import Apply, DemoRuntime
    from examples.recovery.server_process import ServerProcess

LONGEST_WAIT_SECONDS = 5.0


def kill_during(
    apply: Apply, runtime: DemoRuntime, server: ServerProcess, database_file: Path
) -> RuntimeStoreError | None:
    """Send the apply and kill the server the moment SQLite begins to write it; the error that the runtime got.

    None: the answer came first. Whether the commit was whole by then is for the recovery to find out.
    """
    errors: list[RuntimeStoreError] = []

    def send() -> None:
        try:
            runtime.apply(apply)
        except RuntimeStoreError as error:
            errors.append(error)

    log_file = database_file.with_name(f"{database_file.name}-wal")
    size_bytes = _size_bytes(log_file)
    sending = threading.Thread(target=send, name="apply", daemon=True)
    give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
    sending.start()
    # Without a pause: the time between SQLite's first write and the answer is a few milliseconds.
    while sending.is_alive() and _size_bytes(log_file) == size_bytes and time.monotonic() < give_up_at:
        pass
    server.kill()
    sending.join()
    return errors[0] if errors else None


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
