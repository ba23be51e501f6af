"""Every write under one signature: `content` decides all of what is sent, so that equal content is an equal request."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Protocol

from runtimestore import AsyncRuntimeStoreClient, Commit, InputState, RuntimeState
from support.generators.documents import input_state, ops, receipt, session

if TYPE_CHECKING:
    from collections.abc import Callable

Store = AsyncRuntimeStoreClient


def id_of(content: str) -> str:
    """A UUID that stands for a content."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, content))


def input_of(content: str, which: str = "input") -> InputState:
    """The same input for every content, in a state of its own."""
    return input_state(content, input_id=id_of(which))


def session_of(content: str) -> bytes:
    """The same session for every content, with a message of its own."""
    return session(content, session_id=id_of("session"))


class RuntimeWrite(Protocol):
    """A write to a runtime."""

    async def __call__(self, store: Store, runtime_id: str, content: str, **options: Any) -> Commit: ...


async def commit_session_snapshot(store: Store, runtime_id: str, content: str, **options: Any) -> Commit:
    return await store.commit_session_snapshot(runtime_id, session_of(content), **options)


async def atomic_apply(store: Store, runtime_id: str, content: str, **options: Any) -> Commit:
    return await store.atomic_apply(
        runtime_id,
        session_of(content),
        receipt(id_of(content)),
        [input_of(content), input_of(content, "another")],
        id_of("session"),
        **options,
    )


async def persist_input_state(store: Store, runtime_id: str, content: str, **options: Any) -> Commit:
    return await store.persist_input_state(runtime_id, input_of(content), **options)


async def commit_machine_lifecycle(store: Store, runtime_id: str, content: str, **options: Any) -> Commit:
    return await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, [input_of(content)], **options)


async def persist_ops_lifecycle(store: Store, runtime_id: str, content: str, **options: Any) -> Commit:
    return await store.persist_ops_lifecycle(runtime_id, ops(content, epoch_id=id_of("epoch")), **options)


RUNTIME_WRITES: list[RuntimeWrite] = [
    commit_session_snapshot,
    atomic_apply,
    persist_input_state,
    commit_machine_lifecycle,
    persist_ops_lifecycle,
]


async def everything(store: Store, runtime_id: str) -> dict[str, Any]:
    """All that is stored of a runtime, but for receipts other than those of `atomic_apply` with "a" and "b"."""
    return {
        "session": await store.load_session_snapshot(runtime_id),
        "inputs": await store.load_input_states(runtime_id),
        "state": await store.load_runtime_state(runtime_id),
        "ops": await store.load_ops_lifecycle(runtime_id),
        "receipts": [await store.load_boundary_receipt(runtime_id, id_of(content), 0) for content in ("a", "b")],
        "revision": (await store.load_runtime_state_with_revision(runtime_id)).revision,
    }


NOTHING: dict[str, Any] = {
    "session": None,
    "inputs": [],
    "state": None,
    "ops": None,
    "receipts": [None, None],
    "revision": 0,
}
"""What `everything` is of a runtime that was never written to."""


def named(write: Callable[..., Any]) -> str:
    """A test's id for a write."""
    return str(getattr(write, "__name__", write))
