"""Runtimes that live: what each has said, its inputs, and the calls of a turn."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from typing import TYPE_CHECKING, Any

from bench.long_session import INPUT_BYTES, input_of, message_of, session_of
from runtimestore import AsyncRuntimeStoreClient, InputState, RunBoundaryReceipt

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from bench.rust_way import RustWay

    Store = AsyncRuntimeStoreClient | RustWay
    """What workloads call: a server, or the Rust store's way."""


class Clock:
    """How long each operation of a workload took: the calls, and not what a runtime makes before them itself."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Inside is one operation."""
        started = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - started)


class Life:
    """One runtime with a session of about so many bytes and so many inputs, all of them consumed."""

    def __init__(self, *, session_bytes: int = 0, inputs: int = 0, turn_bytes: int = 5_000) -> None:
        self.session_id = str(uuid.uuid4())
        self.runtime_id = f"rt:session:{self.session_id}"
        self.inputs: list[InputState] = []
        self.runs: list[str] = []
        self._messages: list[str] = []
        self._turn_bytes = turn_bytes
        self._turns = 0
        for _ in range(inputs):
            self._accept(session_bytes // inputs)
        if session_bytes and not inputs:
            self._messages.append(message_of("assistant", session_bytes))

    def session(self) -> bytes:
        """The session document as it is now."""
        return session_of(self.session_id, self._messages, self._turns)

    async def begin(self, store: Store) -> None:
        """Put all of it into the store."""
        await self._boundary(str(uuid.uuid4()), 0)(store)

    async def take_turn(self, store: Store, clock: Clock) -> None:
        """Take an input in, load the session, answer, and commit the boundary with all that there is."""
        is_first = not self._messages
        text = _text(INPUT_BYTES)
        input_id, run_id = str(uuid.uuid4()), str(uuid.uuid4())
        queued, before = input_of(input_id, "queued", text, None), self.session()
        self._answer(INPUT_BYTES, self._turn_bytes - INPUT_BYTES)
        self.inputs.append(input_of(input_id, "consumed", text, run_id))
        commit = self._boundary(run_id, 0)
        with clock.timed():
            await store.persist_input_state(self.runtime_id, queued)
            loaded = await store.load_session_snapshot(self.runtime_id)
            await commit(store)
        if loaded != (None if is_first else before):
            raise WrongAnswer("the session is not the one that was committed last")

    async def steer(self, store: Store, run_id: str, sequence: int, clock: Clock) -> None:
        """Take an input in while a run goes on, and commit a further boundary of that run."""
        text, input_id = _text(INPUT_BYTES), str(uuid.uuid4())
        self._answer(INPUT_BYTES, 200)
        queued = input_of(input_id, "queued", text, None)
        self.inputs.append(input_of(input_id, "applied_pending_consumption", text, run_id))
        commit = self._boundary(run_id, sequence)
        with clock.timed():
            await store.persist_input_state(self.runtime_id, queued)
            await commit(store)

    def _accept(self, turn_bytes: int) -> None:
        run_id = str(uuid.uuid4())
        self._answer(INPUT_BYTES, max(200, turn_bytes - INPUT_BYTES))
        self.inputs.append(input_of(str(uuid.uuid4()), "consumed", _text(INPUT_BYTES), run_id))

    def _answer(self, asked_bytes: int, answered_bytes: int) -> None:
        self._messages += [message_of("user", asked_bytes), message_of("assistant", answered_bytes)]
        self._turns += 1

    def _boundary(self, run_id: str, sequence: int) -> Callable[[Store], Coroutine[Any, Any, None]]:
        """What commits a boundary with all that there is now."""
        contributing = [self.inputs[-1].input_id] if self.inputs else []
        receipt = RunBoundaryReceipt(run_id, "run_start", contributing, len(self._messages), sequence)
        session = self.session()

        async def commit(store: Store) -> None:
            await store.atomic_apply(self.runtime_id, session, receipt, self.inputs, self.session_id)
            self.runs.append(run_id)

        return commit


class WrongAnswer(Exception):
    """A store answered something else than what was written."""


def ops_of(size_bytes: int) -> str:
    """A registry of background operations that nothing else repeats."""
    return json.dumps({"epoch_id": str(uuid.uuid4()), "operation_specs": {}, "progress": _text(size_bytes)})


def _text(size_bytes: int) -> str:
    return os.urandom(size_bytes // 2).hex()
