"""A large runtime is sent while its session is still being read, and is all or nothing nevertheless."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest

from runtimestore import RuntimeState, StoredValueCorrupt, StoreUnavailable
from runtimestore.v1 import runtime_store_admin_pb2 as pb
from runtimestore_server.services.loading import Loading
from runtimestore_server.store import tables
from support.generators.documents import inputs, session
from support.servers.database import flip_a_byte
from support.servers.listening import listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.app import Application
    from support.generators.calls import Store

LARGE = "x" * 100_000


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again."""
    return 0


async def _written(store: Store, runtime_id: str, text: str) -> bytes:
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, inputs(4, text))
    await store.commit_session_snapshot(runtime_id, body := session(text))
    return body


def _parts(messages: list[Any]) -> list[str]:
    return [message.WhichOneof("part") for message in messages]


async def test_the_inputs_arrive_before_the_session_was_read(
    app: Application, store: Store, admin: Any, realm: str, runtime_id: str
) -> None:
    body = await _written(store, runtime_id, LARGE)
    go_on, held = threading.Event(), []

    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if tables.session_versions.name in statement:
            held.append(go_on.wait(30))

    messages = []
    with listening(app.store.database.readers, before_cursor_execute=before):
        try:
            async for message in admin.LoadRuntime(pb.LoadRuntimeRequest(realm=realm, runtime_id=runtime_id)):
                messages.append(message)
                if _parts(messages) == ["runtime", "inputs"]:
                    go_on.set()
        finally:
            go_on.set()

    assert held == [True], "the session was read first"
    assert _parts(messages) == ["runtime", "inputs", "session", "session_chunk"]
    assert messages[-1].session_chunk == body


@pytest.mark.parametrize("text", ["small", LARGE])
async def test_a_runtime_with_a_damaged_session_is_refused_whatever_was_sent_before(
    app: Application, store: Store, admin: Any, realm: str, runtime_id: str, text: str
) -> None:
    await _written(store, runtime_id, text)
    await flip_a_byte(app, tables.session_versions.c.body, realm=realm, runtime_id=runtime_id)

    messages: list[Any] = []

    async def load() -> None:
        async for message in admin.LoadRuntime(pb.LoadRuntimeRequest(realm=realm, runtime_id=runtime_id)):
            messages.append(message)  # noqa: PERF401  (what came before the refusal)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await load()
    assert refused.value.code() is grpc.StatusCode.DATA_LOSS
    assert "session" not in _parts(messages)
    with pytest.raises(StoredValueCorrupt) as found:
        await store.load_runtime(runtime_id)
    assert found.value.metadata["table"] == tables.session_versions.name
    # It is mended by the next whole one, as after any load that was refused for it.
    await store.commit_session_snapshot(runtime_id, body := session(text))
    assert (await store.load_runtime(runtime_id)).session_snapshot == body


async def test_a_caller_that_goes_in_the_middle_leaves_nothing_behind(
    app: Application, store: Store, admin: Any, realm: str, runtime_id: str
) -> None:
    body = await _written(store, runtime_id, LARGE)
    go_on = threading.Event()

    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if tables.session_versions.name in statement:
            go_on.wait(30)

    with listening(app.store.database.readers, before_cursor_execute=before):
        try:
            call = admin.LoadRuntime(pb.LoadRuntimeRequest(realm=realm, runtime_id=runtime_id))
            assert (await call.read()).WhichOneof("part") == "runtime"
            call.cancel()
        finally:
            go_on.set()

    assert (await store.load_runtime(runtime_id)).session_snapshot == body


class _Whole(NamedTuple):
    beginning: str


async def test_what_is_told_twice_is_told_once_and_another_moment_is_refused() -> None:
    def of(*told: str, whole: str) -> Callable[[Callable[[str], None]], Any]:
        async def load(begun: Callable[[str], None]) -> _Whole:
            for beginning in told:
                begun(beginning)
            return _Whole(whole)

        return load

    same: Loading[str, _Whole] = Loading(of("a", "a", whole="a"))
    assert (await same.beginning(), await same.whole()) == ("a", _Whole("a"))

    none: Loading[str, _Whole] = Loading(of(whole="a"))
    assert (await none.beginning(), await none.whole()) == (None, _Whole("a"))

    for told in (["a", "b"], ["a"]):  # of less than is worth it, the second attempt tells nothing
        another: Loading[str, _Whole] = Loading(of(*told, whole="b"))
        assert await another.beginning() == "a"
        with pytest.raises(StoreUnavailable):
            await another.whole()
