"""A client that is closed while it is used: calls end with `CallFailed`, later ones are refused, nothing is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, CallFailed, RetryPolicy, RuntimeStoreClient
from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.arguments import INPUT, RUNTIME
from support.servers.scripted_store import Script, running, scripted_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALLS: list[Callable[[Any], Any]] = [
    lambda store: store.load_runtime_state(RUNTIME),
    lambda store: store.load_input_states(RUNTIME),
    lambda store: store.persist_input_state(RUNTIME, INPUT),
    lambda store: store.update_auth_oauth_flow_snapshot(lambda _: b""),
]
IDS = ["load", "stream", "write", "loop"]


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_a_call_whose_client_another_thread_closes_just_before_it_is_sent_fails_as_those_in_flight(
    call: Callable[[Any], Any],
) -> None:
    def token() -> str:
        store.close()  # as another thread could, now that the call was seen to be of an open client
        return "rst_token"

    store = RuntimeStoreClient("127.0.0.1:1", token=token, retry=RetryPolicy(max_attempts=1))

    with pytest.raises(CallFailed, match="closed during the call") as found:
        call(store)
    assert found.value.code is grpc.StatusCode.CANCELLED
    with pytest.raises(RuntimeError, match=r"^the client is closed$"):
        call(store)


def test_an_error_of_the_caller_s_own_is_no_failure_of_the_call() -> None:
    def token() -> str:
        raise ValueError("no token today")

    with RuntimeStoreClient("127.0.0.1:1", token=token) as store, pytest.raises(ValueError, match="no token today"):
        store.load_runtime_state(RUNTIME)


def test_a_closure_during_which_the_client_is_closed_ends_as_a_call_in_flight() -> None:
    async def scenario(script: Script, store: AsyncRuntimeStoreClient) -> None:
        script.answer("LoadAuthOAuthFlowSnapshot", pb.LoadAuthOAuthFlowSnapshotResponse())

        async def update(_: bytes | None) -> bytes:
            await store.close()
            return b""

        with pytest.raises(CallFailed, match="closed during the call"):
            await store.update_auth_oauth_flow_snapshot(update)

    running(scenario)


def test_a_closure_for_threads_during_which_the_client_is_closed_ends_as_a_call_in_flight(tmp_path: Path) -> None:
    async def scenario() -> None:
        script = Script()
        script.answer("LoadAuthOAuthFlowSnapshot", pb.LoadAuthOAuthFlowSnapshotResponse())
        async with scripted_store(script, f"unix:{tmp_path}/store"):
            store = RuntimeStoreClient(f"unix:{tmp_path}/store")

            def update(_: bytes | None) -> bytes:
                store.close()
                return b""

            with pytest.raises(CallFailed, match="closed during the call"):
                await asyncio.to_thread(store.update_auth_oauth_flow_snapshot, update)

    asyncio.run(scenario())


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_a_closed_client_opens_no_channel(monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], Any]) -> None:
    opened: list[object] = []
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *arguments, **_: opened.append(arguments))

    async def scenario() -> None:
        store = AsyncRuntimeStoreClient("127.0.0.1:1")
        await store.close()
        with pytest.raises(RuntimeError, match=r"^the client is closed$"):
            await call(store)

    asyncio.run(scenario())

    assert not opened
