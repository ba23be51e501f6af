"""Ends the streams of authenticated callers soon after they would not be admitted any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from runtimestore.errors import RuntimeStoreError
from runtimestore_server.supervision import stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.access.access_file import AccessFile
    from runtimestore_server.access.rules import Caller
    from runtimestore_server.supervision import Supervision

LOOK_SECONDS = 1.0
"""How often the access file is looked at without a call, and how long a stream goes on at most that is to end."""


class OpenStreams:
    """The streams that are open, on the event loop."""

    def __init__(self, file: AccessFile) -> None:
        self._file = file
        self._open: dict[asyncio.Task[Any], tuple[Caller, Callable[[], None]]] = {}
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, call: asyncio.Task[Any], caller: Caller, check_again: Callable[[], None]) -> None:
        """Keep an eye on the stream of a call, until `remove`; `check_again` raises why its caller is not let in."""
        self._open[call] = caller, check_again

    def remove(self, call: asyncio.Task[Any]) -> None:
        """Let go of a stream that is over; nothing happens where it is not known."""
        self._open.pop(call, None)

    def start(self, supervision: Supervision) -> None:
        """Look from now on."""
        self._task = supervision.task("watch-access", self._keep_looking)

    async def close(self) -> None:
        """Look no more."""
        await stopped(self._task)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """End the streams of those who would not be let in any more: their calls are cancelled, and find why."""
        rules = self._file.rules()  # also where nobody calls: a file that cannot be used is told of
        for call, (caller, check_again) in list(self._open.items()):
            if caller.rules is rules and not caller.principal.ended:
                continue
            try:
                check_again()
            except RuntimeStoreError as refusal:
                caller.refusal = refusal.with_traceback(None)  # whose frames know the caller
                self.remove(call)
                call.cancel()
