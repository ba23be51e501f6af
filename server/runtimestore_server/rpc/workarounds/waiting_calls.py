"""Keeps what gRPC's server waits for calls with, where gRPC itself frees it too soon.

**The defect.** When the loop of a `grpc.aio` server ends by an error (see `serving_on`), the tasks in which it waits
for the next call of each method are cancelled before the server is shut down. Each frees the memory into which gRPC's
core will yet write that no call came. Whatever is there by then is overwritten, and the process ends by SIGSEGV or
SIGABRT.

**Upstream.** No issue is known. To see it: run the reproduction of `serving_on` on a server with a dozen registered
methods, while other callers write and with MALLOC_ARENA_MAX=2 in the environment; of a hundred stops some end the
process.

**Held by** `tests/faults/test_serving_on.py::test_the_process_outlasts_what_ends_grpcs_own_server_under_load`.

**May go** with `serving_on`, or when that test's long run passes without it.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator


class _WaitingCall(asyncio.Task[Any]):
    """A task in which gRPC's server waits for the next call of a method."""

    def cancel(self, msg: Any | None = None) -> bool:
        coroutine: Any = self.get_coro()
        held = gc.get_referents(*gc.get_referents(coroutine))  # the coroutine's own variables
        # For long enough: gRPC's core is done with it a few turns of the loop later, as it shuts that server down.
        self.get_loop().call_later(60.0, held.clear)
        return super().cancel(msg)


def keep_waiting_calls(loop: asyncio.AbstractEventLoop) -> None:
    """Make this loop's tasks of gRPC's server such that they outlast its stop."""
    loop.set_task_factory(_task)


def _task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    waits = ("AioServer._request_call", "AioServer._request_registered_call")
    kind = _WaitingCall if getattr(coroutine, "__qualname__", "") in waits else asyncio.Task
    return kind(coroutine, loop=loop, **options)
