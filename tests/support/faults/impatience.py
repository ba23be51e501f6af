"""Callers who give up in the middle of a call, and a look at what became of each call."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from runtimestore import CallFailed, DeadlineExceeded, RetryPolicy, RuntimeState
from support.generators.calls import NOTHING, RUNTIME_WRITES, RuntimeWrite, Store, everything
from support.generators.documents import input_state, new_id, session

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from support.checkers.torture import Trial

AT_ONCE = 40
LONGEST_SECONDS = 0.02
"""How long a caller waits at most, to begin with: about as long as a call takes where all call at once."""
ONCE = RetryPolicy(max_attempts=1)

Way = Literal["deadline", "cancelled", "hung up"]


class Attempt(NamedTuple):
    """A write to a runtime of its own, and when its caller loses patience."""

    write: RuntimeWrite
    runtime_id: str
    request_id: str
    patience_seconds: float


class Callers:
    """Callers without patience, in front of one server."""

    def __init__(self, address: str, realm: str, trial: Trial) -> None:
        self._address = address
        self._realm = realm
        self._random = trial.random
        self.found: Counter[str] = Counter()
        self.longest_seconds = LONGEST_SECONDS
        self._whole: dict[RuntimeWrite, dict[str, Any]] = {}
        self._large = f"rt:large:{new_id()}"
        self._versions: list[int] = []

    def store(self) -> Store:
        """A client that tries once: each call meets its deadline alone."""
        return Store(self._address, realm=self._realm, retry=ONCE, timeout_seconds=60)

    def count(self, what: str) -> int:
        """How many calls came to this, in whatever way their callers went."""
        return sum(count for name, count in self.found.items() if name.endswith(what))

    async def prepare(self) -> None:
        """See what each write leaves when nobody interrupts it, and store something that takes long to load."""
        async with self.store() as store:
            for write in RUNTIME_WRITES:
                runtime_id = f"rt:whole:{new_id()}"
                await write(store, runtime_id, "a")
                self._whole[write] = await everything(store, runtime_id)
            await store.commit_session_snapshot(self._large, session("x" * 5_000_000))
            for _ in range(8):
                await store.persist_input_state(self._large, input_state("x" * 500_000))

    async def give_up(self, count: int, way: Way) -> None:
        """Make so many calls without patience, and see what became of each that writes.

        Five of eight write to runtimes of their own, one acquires a runtime or writes the OAuth flow snapshot, and two
        load.
        """
        for start in range(0, count, AT_ONCE):
            batch = [self._attempt() for _ in range(min(AT_ONCE, count - start))]
            impatient = self.store()
            eighth = len(batch) // 8
            loads, asides, writes = batch[: 2 * eighth], batch[2 * eighth : 3 * eighth], batch[3 * eighth :]
            acquisitions, flows = asides[::2], asides[1::2]
            await asyncio.gather(
                *(self._call(self._write(impatient, attempt, way), attempt, way) for attempt in writes),
                *(self._call(self._acquire(impatient, attempt, way), attempt, way) for attempt in acquisitions),
                *(self._call(self._persist_flow(impatient, attempt, way), attempt, way) for attempt in flows),
                *(self._call(self._load(impatient, attempt, way), attempt, way) for attempt in loads[::2]),
                *(self._call(self._load_inputs(impatient, attempt, way), attempt, way) for attempt in loads[1::2]),
                *([self._hang_up(impatient)] if way == "hung up" else []),
            )
            await impatient.close()
            async with self.store() as store:
                await self._nothing_on_its_way(store)
                await asyncio.gather(*(self._whole_or_nothing(store, attempt, way) for attempt in writes))
                await asyncio.gather(*(self._acquired_once(store, attempt) for attempt in acquisitions))
                await self._each_flow_once(store, flows)
        # gRPC keeps a connection for as long as a call on it is referred to, and failed calls are, in cycles.
        gc.collect()

    def _attempt(self) -> Attempt:
        write = self._random.choice(RUNTIME_WRITES)
        return Attempt(write, f"rt:{new_id()}", new_id(), self._random.uniform(0, self.longest_seconds))

    def _write(self, store: Store, attempt: Attempt, way: Way) -> Awaitable[object]:
        return attempt.write(
            store, attempt.runtime_id, "a", request_id=attempt.request_id, **self._deadline(attempt, way)
        )

    def _acquire(self, store: Store, attempt: Attempt, way: Way) -> Awaitable[object]:
        return store.acquire_runtime(
            attempt.runtime_id, "a", request_id=attempt.request_id, **self._deadline(attempt, way)
        )

    def _persist_flow(self, store: Store, attempt: Attempt, way: Way) -> Awaitable[object]:
        return store.persist_auth_oauth_flow_snapshot(
            b"{}", request_id=attempt.request_id, **self._deadline(attempt, way)
        )

    def _load(self, store: Store, attempt: Attempt, way: Way) -> Awaitable[object]:
        return store.load_session_snapshot(self._large, **self._deadline(attempt, way))

    def _load_inputs(self, store: Store, attempt: Attempt, way: Way) -> Awaitable[object]:
        return store.load_input_states(self._large, **self._deadline(attempt, way))

    @staticmethod
    def _deadline(attempt: Attempt, way: Way) -> dict[str, Any]:
        return {"timeout_seconds": attempt.patience_seconds} if way == "deadline" else {}

    async def _call(self, awaitable: Awaitable[object], attempt: Attempt, way: Way) -> None:
        call = asyncio.ensure_future(awaitable)
        if way == "cancelled":
            await asyncio.wait([call], timeout=attempt.patience_seconds)
            call.cancel()
        await asyncio.wait([call])
        if call.cancelled():
            self.found[f"{way}, gave up"] += 1
        elif (error := call.exception()) is None:
            self.found[f"{way}, answered"] += 1
        else:
            assert isinstance(error, (DeadlineExceeded, CallFailed)), repr(error)
            assert isinstance(error, DeadlineExceeded) or way == "hung up", repr(error)
            self.found[f"{way}, gave up"] += 1

    async def _hang_up(self, store: Store) -> None:
        await asyncio.sleep(self._random.uniform(0, self.longest_seconds))
        await store.close()

    async def _nothing_on_its_way(self, store: Store) -> None:
        """Wait until what was given up has been dealt with: the server counts nothing any more."""
        counted = None
        for _ in range(1000):
            await store.commit_machine_lifecycle("rt:behind-the-others", RuntimeState.IDLE, request_id="")
            now = (await store.get_server_info()).commits.writes
            if counted is not None and now == counted + 1:
                return
            counted = now
            await asyncio.sleep(0.02)
        raise AssertionError("the server is never done")

    async def _whole_or_nothing(self, store: Store, attempt: Attempt, way: Way) -> None:
        whole = self._whole[attempt.write]
        before = await everything(store, attempt.runtime_id)
        landed = before == whole
        assert landed or before == NOTHING, (attempt, before)
        self.found[f"{way}, {'landed' if landed else 'left nothing'}"] += 1

        repeated = await attempt.write(store, attempt.runtime_id, "a", request_id=attempt.request_id)

        assert repeated == (1, landed), attempt
        if not landed:
            assert await everything(store, attempt.runtime_id) == whole, attempt

    async def _acquired_once(self, store: Store, attempt: Attempt) -> None:
        found = await store.acquire_runtime(attempt.runtime_id, "a", request_id=attempt.request_id)
        assert found.fence == 1, attempt

    async def _each_flow_once(self, store: Store, flows: list[Attempt]) -> None:
        for attempt in flows:
            found = await store.persist_auth_oauth_flow_snapshot(b"{}", request_id=attempt.request_id)
            self._versions.append(found.version)
        assert sorted(self._versions) == list(range(1, len(self._versions) + 1))
