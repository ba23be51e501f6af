"""What cannot be meant is refused by its name, whichever method it is handed to, and not sent."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

import runtimestore
from runtimestore import AsyncRuntimeStoreClient, InputState, RunBoundaryReceipt, RuntimeState, RuntimeStoreClient
from support.generators.arguments import ID, RECEIPT, RUNTIME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GREATEST = 2**64 - 1

Client = Any
"""One client or the other; what is wrong on purpose has no type."""


def _deep() -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"": deep}
    return deep


@pytest.fixture
def store() -> Iterator[Client]:
    """A client to whose server nothing may be sent: nobody listens there, and one attempt is all."""
    policy = runtimestore.RetryPolicy(max_attempts=1)
    with RuntimeStoreClient("127.0.0.1:1", timeout_seconds=5, retry=policy) as client:
        yield client


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
    ("document", "error", "said"),
    [
        (None, TypeError, "session_delta must be bytes, a str or a dict, not NoneType"),
        ([1], TypeError, "session_delta must be bytes, a str or a dict, not list"),
        ({"n": float("nan")}, ValueError, "session_delta cannot be written as JSON: "),
        ({"n": object()}, TypeError, "session_delta cannot be written as JSON: .*object"),
        ("\ud800", ValueError, "session_delta cannot be written as UTF-8: "),
        (_deep(), ValueError, "session_delta is nested too deep to be written as JSON: give its bytes"),
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
            lambda store: store.load_boundary_receipt(RUNTIME, ID, 10**5000),
            ValueError,
            "sequence must be from 0 to 18446744073709551615, not one of many digits",
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
