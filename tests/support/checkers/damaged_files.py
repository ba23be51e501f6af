"""A store that a server has filled, and a judgement of what is answered once bits of its files are other ones."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from runtimestore import RetryPolicy, RuntimeStoreError, StoredValueCorrupt, StoreUnavailable
from runtimestore_server.store.engines import in_a_sentence
from runtimestore_server.store.schema import SchemaNotCurrent
from support.generators.calls import RUNTIME_WRITES, Store, id_of, input_of, named
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Call = Callable[[], Awaitable[Any]]

RUNTIMES = [f"rt:session:{number}" for number in range(20)]
ONCE = RetryPolicy(max_attempts=1)


class Filled:
    """What the loads of each runtime answer before there is damage, and counts of what they answer then."""

    def __init__(self, sound: dict[str, dict[str, Any]]) -> None:
        self._sound = sound
        self.counted: Counter[str] = Counter()
        self.wrong: list[str] = []

    @classmethod
    async def store(cls, url: str) -> Filled:
        """Fill an empty store."""
        async with in_process(url) as app, Store(app.address) as store:
            for runtime_id in RUNTIMES:
                for write in RUNTIME_WRITES:
                    await write(store, runtime_id, "a")
                await store.acquire_runtime(runtime_id, "host-a")
            await store.persist_auth_oauth_flow_snapshot(b"flow")
            return cls({name: {what: await load() for what, load in loads(store, name).items()} for name in RUNTIMES})

    async def meet(self, url: str, runtime_id: str, damage: str) -> None:
        """Call everything about a runtime on a store with this damage, if a server starts on it."""
        try:
            await self._meet(url, runtime_id, damage)
        except (DBAPIError, SchemaNotCurrent) as error:  # of the start: no call lets one out
            if "damaged" not in (in_a_sentence(error) if isinstance(error, DBAPIError) else str(error)):
                raise
            self.counted["start refused"] += 1

    async def _meet(self, url: str, runtime_id: str, damage: str) -> None:
        async with in_process(url) as app, Store(app.address, retry=ONCE) as store:
            for name, load in loads(store, runtime_id).items():
                answer, sound = await _answer(load), self._sound[runtime_id][name]
                if is_told(answer):
                    self.counted["told"] += 1
                elif isinstance(answer, StoreUnavailable):
                    self.counted["engine ended"] += 1  # damage may end a process of the engine's
                else:
                    self.counted["sound" if answer == sound else "absent"] += 1
                    if answer != sound and not _is_less(answer, sound):
                        self.wrong.append(f"{damage}: {name}: {answer!r}")
            for name, write in _writes(store, runtime_id).items():
                answer = await _answer(write)
                refused = isinstance(answer, RuntimeStoreError)
                self.counted["writes refused" if refused else "writes done"] += 1
                if refused and not is_told(answer) and not isinstance(answer, StoreUnavailable):
                    self.wrong.append(f"{damage}: {name}: {answer!r}")


def loads(store: Store, runtime_id: str) -> dict[str, Call]:
    """A load of each kind, of what the writes with the marks "" and "a" left."""
    return {
        "session": lambda: store.load_session_snapshot(runtime_id),
        "inputs": lambda: store.load_input_states(runtime_id),
        "input": lambda: store.load_input_state(runtime_id, input_of("").input_id),
        "state": lambda: store.load_runtime_state(runtime_id),
        "ops": lambda: store.load_ops_lifecycle(runtime_id),
        "receipt": lambda: store.load_boundary_receipt(runtime_id, id_of("a"), 0),
        "oauth": store.load_auth_oauth_flow_snapshot,
    }


def _writes(store: Store, runtime_id: str) -> dict[str, Call]:
    return {
        **{named(write): partial(write, store, runtime_id, "b") for write in RUNTIME_WRITES},
        "acquire": lambda: store.acquire_runtime(runtime_id, "host-b"),
        "oauth": lambda: store.persist_auth_oauth_flow_snapshot(b"other"),
    }


async def _answer(call: Call) -> Any:
    try:
        return await call()
    except RuntimeStoreError as refusal:
        return refusal


def is_told(answer: object) -> bool:
    """Whether it is the refusal of damage, which names the row, or the whole file and what to do about it."""
    if not isinstance(answer, StoredValueCorrupt):
        return False
    return answer.metadata["table"] != "unknown" or "run `runtimestore verify`" in answer.message


def _is_less(answer: Any, sound: Any) -> bool:
    """Whether it is what is left when rows cannot be found: an index that lost them is not seen."""
    if isinstance(answer, list):
        return [item for item in sound if item in answer] == answer
    return answer is None
