"""What a caller may hand over: what has one meaning is taken, anything else is refused by its name and not sent."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import inspect
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import runtimestore
from runtimestore import (
    AsyncRuntimeStoreClient,
    InputState,
    RunApplyBoundary,
    RunBoundaryReceipt,
    RuntimeState,
    RuntimeStoreClient,
)
from runtimestore.v1 import runtime_store_admin_pb2 as admin_pb
from runtimestore.v1 import runtime_store_pb2 as pb
from support.servers.scripted_store import Script, scripted_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNTIME = "rt:session:1"
ID = "0189f7a0-0000-7000-8000-00000000000a"
THE_ID = uuid.UUID(ID)
RECEIPT = RunBoundaryReceipt(ID, RunApplyBoundary.RUN_START, (), 0, 0)
GREATEST = 2**64 - 1

Client = Any
"""One client or the other; what is wrong on purpose has no type."""


@pytest.fixture(params=["async", "sync"])
def sent(request: pytest.FixtureRequest) -> Callable[[str, Callable[[Client], Any]], Any]:
    """Make one call with a client, and tell the request that reached the server."""

    def send(rpc: str, call: Callable[[Client], Any]) -> Any:
        script = Script()

        async def run() -> None:
            script.answer(rpc, None)
            async with scripted_store(script) as address:
                if request.param == "async":
                    async with AsyncRuntimeStoreClient(address, timeout_seconds=10) as store:
                        await call(store)
                    return

                def blocking() -> None:
                    with RuntimeStoreClient(address, timeout_seconds=10) as store:
                        call(store)

                await asyncio.to_thread(blocking)

        asyncio.run(run())
        (message,) = script.requests[rpc]
        return message

    return send


@pytest.fixture
def store() -> Iterator[Client]:
    """A client to whose server nothing may be sent: nobody listens there, and one attempt is all."""
    policy = runtimestore.RetryPolicy(max_attempts=1)
    with RuntimeStoreClient("127.0.0.1:1", timeout_seconds=5, retry=policy) as client:
        yield client


@pytest.mark.parametrize(
    ("rpc", "call", "field"),
    [
        ("LoadRuntimeState", lambda store: store.load_runtime_state(THE_ID), "runtime_id"),
        ("LoadInputState", lambda store: store.load_input_state(RUNTIME, THE_ID), "input_id"),
        ("LoadBoundaryReceipt", lambda store: store.load_boundary_receipt(RUNTIME, THE_ID, 0), "run_id"),
        ("CommitMachineLifecycle", lambda store: store.commit_machine_lifecycle(THE_ID, "idle"), "runtime_id"),
        ("AcquireRuntime", lambda store: store.acquire_runtime(THE_ID, "host/1"), "runtime_id"),
        (
            "AtomicApply",
            lambda store: store.atomic_apply(RUNTIME, b"{}", RECEIPT, session_store_key=THE_ID),
            "session_store_key",
        ),
    ],
)
def test_a_uuid_is_taken_where_an_id_is_meant(
    sent: Callable[..., Any], rpc: str, call: Callable[[Client], Any], field: str
) -> None:
    assert getattr(sent(rpc, call), field) == ID


def test_the_fence_of_a_runtime_is_the_same_for_a_uuid_and_its_text() -> None:
    async def scenario() -> None:
        script = Script()
        script.answer("AcquireRuntime", admin_pb.AcquireRuntimeResponse(fence=7))
        script.answer("CommitMachineLifecycle", pb.CommitMachineLifecycleResponse(revision=1))
        async with scripted_store(script) as address, AsyncRuntimeStoreClient(address) as store:
            await store.acquire_runtime(THE_ID, "host/1")
            await store.commit_machine_lifecycle(ID, RuntimeState.IDLE)
        assert script.requests["CommitMachineLifecycle"][0].fence == 7

    asyncio.run(scenario())


def test_values_take_uuids_and_names_and_are_equal_to_those_of_texts_and_members() -> None:
    assert InputState(THE_ID, "{}") == InputState(ID, "{}")
    assert RunBoundaryReceipt(THE_ID, "run_start", [THE_ID, ID], 1, 2) == RunBoundaryReceipt(
        ID, RunApplyBoundary.RUN_START, (ID, ID), 1, 2
    )


@pytest.mark.parametrize("state", RuntimeState)
def test_a_state_is_taken_by_its_name(sent: Callable[..., Any], state: RuntimeState) -> None:
    by_name = sent("CommitMachineLifecycle", lambda store: store.commit_machine_lifecycle(RUNTIME, state.value))

    assert by_name.commit.runtime_state == pb.RuntimeState.Value(f"RUNTIME_STATE_{state.name}")


def test_a_state_or_boundary_that_there_is_not_is_refused_with_those_that_there_are(store: Client) -> None:
    for value, error, said in (("idel", ValueError, "not 'idel'"), (2, TypeError, "not int"), (None, TypeError, "not")):
        with pytest.raises(error, match=rf"^commit must be a RuntimeState or one of 'initializing', 'idle', .*{said}"):
            store.commit_machine_lifecycle(RUNTIME, value)
    made: Any = RunBoundaryReceipt
    with pytest.raises(
        ValueError,
        match=r"^boundary must be a RunApplyBoundary or one of 'immediate', 'run_start', 'run_checkpoint', not 'end'$",
    ):
        made(ID, "end", (), 0, 0)
    with pytest.raises(TypeError, match=r"^boundary must be .*, not RuntimeState$"):
        made(ID, RuntimeState.IDLE, (), 0, 0)


@pytest.mark.parametrize(
    ("given", "bytes_sent"),
    [
        (b'{ "id":1.0}', b'{ "id":1.0}'),
        ('{ "id": "\u00fc" }', b'{ "id": "\xc3\xbc" }'),
        ({"z": "\u00fc", "a": [1.0, None]}, b'{"z":"\xc3\xbc","a":[1.0,null]}'),
    ],
    ids=["bytes", "str", "dict"],
)
def test_a_document_is_sent_as_its_bytes_its_utf_8_or_as_compact_json(
    sent: Callable[..., Any], given: Any, bytes_sent: bytes
) -> None:
    session = sent("CommitSessionSnapshot", lambda store: store.commit_session_snapshot(RUNTIME, given))
    assert session.session_delta.session_snapshot == bytes_sent
    boundary = sent("AtomicApply", lambda store: store.atomic_apply(RUNTIME, given, RECEIPT))
    assert boundary.session_delta.session_snapshot == bytes_sent
    ops = sent("PersistOpsLifecycle", lambda store: store.persist_ops_lifecycle(RUNTIME, given))
    assert ops.snapshot.snapshot_json.encode() == bytes_sent


@pytest.mark.parametrize("spaces", ["", "  "])
def test_an_input_s_document_is_taken_as_bytes_and_kept_byte_for_byte(spaces: str) -> None:
    document = f'{{{spaces}"input_id": "{ID}", "n": 1.0, "text": "\u00fc"}}'

    assert InputState.from_json(document.encode()) == InputState(ID, document)
    assert InputState(ID, document.encode()).state_json == document


def test_an_input_is_taken_as_a_dict() -> None:
    value = {"input_id": ID, "current_state": "queued"}

    assert InputState.from_json(value) == InputState(ID, json.dumps(value, separators=(",", ":")))


@pytest.mark.parametrize(
    ("document", "error", "said"),
    [
        (None, TypeError, "session_delta must be bytes, a str or a dict, not NoneType"),
        ([1], TypeError, "session_delta must be bytes, a str or a dict, not list"),
        ({"n": float("nan")}, ValueError, "session_delta cannot be written as JSON: "),
        ({"n": object()}, TypeError, "session_delta cannot be written as JSON: .*object"),
        ("\ud800", ValueError, "session_delta cannot be written as UTF-8: "),
    ],
)
def test_a_session_that_is_no_document_is_refused_by_its_name(
    store: Client, document: object, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=f"^{said}"):
        store.commit_session_snapshot(RUNTIME, document)


def test_an_input_s_document_that_is_none_is_refused_by_its_name() -> None:
    made: Any = InputState
    with pytest.raises(ValueError, match=r"^document is not UTF-8: "):
        made.from_json(b"\xff")
    with pytest.raises(TypeError, match=r"^document must be bytes, a str or a dict, not int$"):
        made.from_json(7)
    with pytest.raises(TypeError, match=r"^state_json must be bytes, a str or a dict, not NoneType$"):
        made(ID, None)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda store: store.load_runtime_state(7), TypeError, "runtime_id must be a str or a uuid.UUID, not int"),
        (lambda store: store.load_input_state(RUNTIME, None), TypeError, "input_id must be a str or a uuid.UUID"),
        (lambda store: store.load_boundary_receipt(RUNTIME, ID, -1), ValueError, "sequence must be from 0 to .*not -1"),
        (lambda store: store.load_boundary_receipt(RUNTIME, ID, "1"), TypeError, "sequence must be an int, not str"),
        (lambda store: store.load_boundary_receipt(RUNTIME, ID, True), TypeError, "sequence must be an int, not bool"),
        (
            lambda store: store.commit_machine_lifecycle(RUNTIME, "idle", if_revision=-1),
            ValueError,
            "if_revision must be from 0 to 18446744073709551615, not -1",
        ),
        (
            lambda store: store.commit_machine_lifecycle(RUNTIME, "idle", request_id=7),
            TypeError,
            "request_id must be a str or a uuid.UUID, not int",
        ),
        (
            lambda store: store.commit_machine_lifecycle(RUNTIME, "idle", [{"input_id": ID}]),
            TypeError,
            r"input_states\[0\] must be an InputState, not dict",
        ),
        (
            lambda store: store.atomic_apply(RUNTIME, b"{}", RECEIPT, InputState(ID, "{}")),
            TypeError,
            "input_updates must be a sequence of InputState, not InputState",
        ),
        (
            lambda store: store.atomic_apply(RUNTIME, b"{}", {"run_id": ID}),
            TypeError,
            "receipt must be a RunBoundaryReceipt, not dict",
        ),
        (lambda store: store.persist_input_state(RUNTIME, "{}"), TypeError, "state must be an InputState, not str"),
        (lambda store: store.acquire_runtime(RUNTIME, None), TypeError, "owner must be a str, not NoneType"),
        (lambda store: store.persist_auth_oauth_flow_snapshot("{}"), TypeError, "snapshot_json must be bytes, not str"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(
    store: Client, call: Callable[[Client], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=f"^{said}"):
        call(store)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((7, "immediate", (), 0, 0), TypeError, "run_id must be"),
        ((ID, "immediate", ID, 0, 0), TypeError, "contributing_input_ids must be a sequence of .*, not str"),
        ((ID, "immediate", [ID, 7], 0, 0), TypeError, r"contributing_input_ids\[1\] must be"),
        ((ID, "immediate", (), -1, 0), ValueError, "message_count must be from 0"),
        ((ID, "immediate", (), 0, -1), ValueError, "sequence must be from 0"),
        ((ID, "immediate", (), 0, GREATEST + 1), ValueError, "sequence must be from 0"),
        ((ID, "immediate", (), 0, 0, b"digest"), TypeError, "conversation_digest must be a str, not bytes"),
    ],
)
def test_a_receipt_that_cannot_be_meant_is_refused_when_it_is_made(
    arguments: tuple[Any, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=f"^{said}"):
        RunBoundaryReceipt(*arguments)


def _calls() -> list[tuple[str, Callable[..., Any]]]:
    """Each method that calls the server, by its name, as a call that is good but for what is changed in it."""
    of_runtime: dict[str, Any] = {"runtime_id": RUNTIME}
    rest: dict[str, dict[str, Any]] = {
        "persist_auth_oauth_flow_snapshot": {"snapshot_json": b"{}"},
        "update_auth_oauth_flow_snapshot": {"update": lambda _: b"{}"},
        "commit_session_snapshot": {**of_runtime, "session_delta": b"{}"},
        "atomic_apply": {**of_runtime, "receipt": RECEIPT},
        "load_boundary_receipt": {**of_runtime, "run_id": ID, "sequence": 0},
        "load_boundary_receipt_with_revision": {**of_runtime, "run_id": ID, "sequence": 0},
        "persist_input_state": {**of_runtime, "state": InputState(ID, "{}")},
        "load_input_state": {**of_runtime, "input_id": ID},
        "load_input_state_with_revision": {**of_runtime, "input_id": ID},
        "commit_machine_lifecycle": {**of_runtime, "commit": "idle"},
        "persist_ops_lifecycle": {**of_runtime, "snapshot": "{}"},
        "acquire_runtime": {**of_runtime, "owner": "host/1"},
    }
    found: list[tuple[str, Callable[..., Any]]] = []
    for name, method in inspect.getmembers(RuntimeStoreClient, inspect.isfunction):
        if not name.startswith("_") and "timeout_seconds" in (taken := inspect.signature(method).parameters):
            good = rest.get(name) or {key: value for key, value in of_runtime.items() if key in taken}
            found.append((name, functools.partial(_call, name, good)))
    return found


def _call(name: str, good: dict[str, Any], client: Client, **changed: Any) -> Any:
    return getattr(client, name)(**(good | changed))


CALLS = _calls()
NO_SPANS: tuple[Any, ...] = (0, 0.0, -1, float("nan"), float("inf"), 10**400, True, "1", b"1", [])
NO_IDS: tuple[Any, ...] = ("\ud800", 7, b"id", [], True)
NO_TEXTS: tuple[Any, ...] = ("\ud800", 7, b"text", None)
NO_NUMBERS: tuple[Any, ...] = (-1, GREATEST + 1, 1.0, "1", True, float("nan"))
WRONG: dict[str, tuple[Any, ...]] = {
    "timeout_seconds": NO_SPANS,
    "runtime_id": (*NO_IDS, None),
    "input_id": (*NO_IDS, None),
    "run_id": (*NO_IDS, None),
    "session_store_key": NO_IDS,
    "request_id": NO_IDS,
    "owner": NO_TEXTS,
    "if_revision": NO_NUMBERS,
    "as_of_revision": NO_NUMBERS,
    "page_size": (*NO_NUMBERS, None),
    "page_token": NO_TEXTS,
    "sequence": (*NO_NUMBERS, None),
    "session_delta": ("\ud800", {"a": "\ud800"}, 7, [], True),
    "snapshot": ("\ud800", {"a": "\ud800"}, b"\xff", 7, None),
    "snapshot_json": ("{}", None, 7, bytearray()),
    "update": (None, b"{}", 7),
    "state": (None, "{}", {}),
    "receipt": (None, "{}", {}),
    "commit": (None, 2, "idel", "\ud800"),
    "input_updates": (None, 7, ["{}"], InputState(ID, "{}"), "{}"),
    "input_states": (None, 7, ["{}"], InputState(ID, "{}"), "{}"),
}


@pytest.mark.parametrize("kind", [RuntimeStoreClient, AsyncRuntimeStoreClient])
@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_every_argument_of_every_method_that_cannot_be_meant_is_refused_by_its_name(
    name: str, call: Callable[..., Any], kind: type[Client]
) -> None:
    taken = [key for key in inspect.signature(getattr(kind, name)).parameters if key != "self"]
    assert set(taken) <= set(WRONG)

    async def ask(client: Client, **changed: Any) -> None:
        answer = call(client, **changed)
        if inspect.isawaitable(answer):
            await answer

    async def refuse() -> None:
        client = kind("127.0.0.1:1", retry=runtimestore.RetryPolicy(max_attempts=1))
        for key in taken:
            for value in WRONG[key]:
                with pytest.raises((TypeError, ValueError), match=rf"^{key}\b") as found:
                    await ask(client, **{key: value})
                assert found.type in (TypeError, ValueError), (key, value)

    asyncio.run(refuse())


@pytest.mark.parametrize("kind", [RuntimeStoreClient, AsyncRuntimeStoreClient])
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("address", ("\ud800:1", 7, None, [7], [], "host")),
        ("realm", NO_TEXTS),
        ("timeout_seconds", (*NO_SPANS, None)),
        ("known_bytes", (*NO_NUMBERS, None)),
        ("max_message_bytes", (0, -1, 2**31, 1.0, "1", None, True)),
        ("retry", (None, 3)),
        ("tls", (True, "ca.pem")),
    ],
)
def test_a_client_is_not_made_of_what_cannot_be_meant(kind: Client, key: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"^{key}\b") as found:
            kind(**{key: value})
        assert found.type in (TypeError, ValueError), value


@pytest.mark.parametrize(
    "key", ["max_attempts", "initial_backoff_seconds", "max_backoff_seconds", "backoff_multiplier"]
)
def test_a_retry_policy_is_not_made_of_what_is_no_number(key: str) -> None:
    values: tuple[Any, ...] = ("1", True, [], b"1")
    for value in values:
        with pytest.raises(TypeError, match=rf"^{key}\b"):
            runtimestore.RetryPolicy(**{key: value})


@pytest.mark.parametrize("own_channel", [False, True])
def test_a_client_that_is_used_in_a_second_event_loop_says_so(own_channel: bool) -> None:
    import grpc.aio

    async def first() -> AsyncRuntimeStoreClient:
        async with scripted_store(Script()) as address:
            channel = grpc.aio.insecure_channel(address) if own_channel else None
            store = AsyncRuntimeStoreClient(address, channel=channel)
            await store.load_runtime_state(RUNTIME)
            await store.load_runtime_state(RUNTIME)
            if channel is not None:
                await channel.close()
            await store.close()
            return store

    async def second(store: AsyncRuntimeStoreClient) -> None:
        for call in (store.load_runtime_state(RUNTIME), store.load_input_states(RUNTIME), store.get_server_info()):
            with pytest.raises(RuntimeError, match="event loop of its first call, and this is another one"):
                await call

    asyncio.run(second(asyncio.run(first())))


def test_the_package_tells_its_version() -> None:
    assert runtimestore.__version__ == importlib.metadata.version("runtimestore")
