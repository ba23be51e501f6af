"""Bounds the bytes of answers that are on their way to their callers, who may read slowly, or not at all."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from runtimestore.errors import Overloaded
from runtimestore_server.budget import Bound, Budget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import grpc.aio

    from runtimestore_server.budget import RetryPacing

STANDSTILL_SECONDS = 30.0
"""How long an answer may stand still while another finds no room. On a slow link messages of 1 MiB, and the buffers on
the way, let an answer seem to stand for ten seconds and more."""


@dataclass(slots=True)
class _Answer:
    """An answer on its way: how much of it is held, and when it last moved."""

    moved: float
    bytes: int = 0
    writing: tuple[AsyncGenerator[Any, None], Any] | None = None
    """The messages of a stream, and that of them which gRPC has and has not sent."""
    given_up: Overloaded | None = None


class Sending:
    """Holds answers to a budget of bytes, and gives up those that stand still when others find no room in it.

    What stands still is never taken back from gRPC, which has no way to end a call whose caller reads nothing. So one
    message of an answer that was given up is held, and counted, until its caller reads on or goes; the rest is not. Of
    an answer in one message nothing can be given up. Callers' libraries receive such answers unasked: it stands still
    only where somebody means it to.
    """

    def __init__(self, max_bytes: int, pacing: RetryPacing) -> None:
        self.budget = Budget(pacing, size=Bound(max_bytes, "sending_bytes", "bytes are being sent"))
        self._max_bytes = max_bytes
        self._pacing = pacing
        self._answers: dict[asyncio.Task[Any], _Answer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __call__(self, size_bytes: int, call: asyncio.Task[Any] | None = None) -> None:
        """Count `size_bytes` of an answer as being sent until its call, or that of this task, is over.

        They come to those of the same answer that were counted before.

        Raises:
            Overloaded: too many bytes are on their way to callers that read slowly, or the answer was given up.
        """
        call = call or this_call()  # gRPC sends in the task of the call
        answer = self._answers.get(call)
        if answer is not None and answer.given_up is not None:
            raise answer.given_up
        items = 1 if answer is None else 0  # it is one answer, however often it is counted
        try:
            self.budget.take(size_bytes, items=items)
        except Overloaded:
            if not self._give_up(self.budget.bytes + size_bytes - self._max_bytes):
                raise
            if answer is not None and answer.given_up is not None:  # it stood still the longest itself
                raise answer.given_up from None
            self.budget.take(size_bytes, items=items)
        if answer is None:
            answer = self._answers[call] = _Answer(time.monotonic())
            call.add_done_callback(self._over)
        answer.bytes += size_bytes

    async def stream(self, answers: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Send a stream of messages, or let it send by itself, as the health service's Watch does.

        Raises:
            Overloaded: it stood still while others found no room.
        """
        if not inspect.isasyncgen(answers):
            await answers
            return
        messages = cast("AsyncGenerator[Any, None]", answers)
        call = this_call()
        async with aclosing(messages):  # a call that ends early must end what it reads from
            async for message in messages:
                answer = self._answers.get(call)
                if answer is None:  # nobody counted it
                    await context.write(message)
                    continue
                answer.writing = messages, message
                await context.write(message)
                answer.writing, answer.moved = None, time.monotonic()
                if answer.given_up is not None:
                    raise answer.given_up

    def _over(self, call: asyncio.Task[Any]) -> None:
        answer = self._answers.pop(call)
        self.budget.give_back(answer.bytes)

    def _give_up(self, wanted_bytes: int) -> bool:
        """Give up answers that have stood still for too long, the longest first, until there is room; whether any."""
        latest = time.monotonic() - STANDSTILL_SECONDS
        made_bytes = 0
        for answer in sorted(self._answers.values(), key=lambda answer: answer.moved):
            if made_bytes >= wanted_bytes or answer.moved > latest:
                break
            if answer.writing is not None:
                made_bytes += self._drop(answer, *answer.writing)
        return made_bytes >= wanted_bytes

    def _drop(self, answer: _Answer, messages: AsyncGenerator[Any, None], message: Any) -> int:
        """Let go of what gRPC does not have of an answer; how many bytes that is."""
        answer.writing = None
        told = "the answer stood still while others found no room; load it again"
        answer.given_up = self._pacing.refusal(told, sending_bytes=self.budget.bytes)
        # It waits until its next message is asked for, and so anybody can close it.
        closing = asyncio.get_running_loop().create_task(messages.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        kept: int = min(answer.bytes, len(message) if isinstance(message, bytes) else message.ByteSize())
        dropped, answer.bytes = answer.bytes - kept, kept
        self.budget.give_back(dropped, items=0)
        return dropped


def as_sent(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Serialise a message of a stream, unless it is bytes already."""
    return lambda message: message if isinstance(message, bytes) else serializer(message)


def this_call() -> asyncio.Task[Any]:
    """Return the task that receives the message of a call, runs its handler and sends its answer."""
    if (call := asyncio.current_task()) is None:
        raise RuntimeError("messages are received in the tasks of their calls")
    return call
