"""Sessions, the list of them, and the key that they must match."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import InvalidRequest, SessionKeyMismatch
from runtimestore_server.store.tables import sessions
from support.generators.calls import NOTHING, Store, everything, input_of
from support.generators.documents import SESSION_SAMPLES, new_id, receipt, sample, session, spellings
from support.servers.database import rows

if TYPE_CHECKING:
    from runtimestore_server.app import Application

INT64_MAX = 2**63 - 1


@pytest.mark.parametrize("name", SESSION_SAMPLES)
async def test_a_sample_session_is_returned_byte_for_byte(store: Store, runtime_id: str, name: str) -> None:
    body = sample(name)
    await store.commit_session_snapshot(runtime_id, body)
    assert await store.load_session_snapshot(runtime_id) == body

    await store.atomic_apply(f"{runtime_id}/boundary", body, receipt())
    assert await store.load_session_snapshot(f"{runtime_id}/boundary") == body


async def test_a_session_of_no_messages_is_a_session(store: Store, runtime_id: str) -> None:
    body = sample("session_00_empty.json")
    assert json.loads(body)["messages"] == []

    await store.atomic_apply(runtime_id, body, receipt(), session_store_key=json.loads(body)["id"])

    assert await store.load_session_snapshot(runtime_id) == body


async def test_the_last_snapshot_of_a_runtime_counts(store: Store, runtime_id: str) -> None:
    for name in SESSION_SAMPLES:
        await store.commit_session_snapshot(runtime_id, sample(name))

    assert await store.load_session_snapshot(runtime_id) == sample(SESSION_SAMPLES[-1])


async def test_the_bare_uuid_of_a_session_as_runtime_id_finds_nothing(store: Store) -> None:
    session_id = new_id()
    await store.commit_session_snapshot(f"rt:session:{session_id}", session(session_id=session_id))

    for bare in (session_id, session_id.upper(), session_id.replace("-", "")):
        assert await everything(store, bare) == NOTHING


async def test_a_session_store_key_that_is_the_snapshots_id_in_any_form_is_accepted(
    store: Store, runtime_id: str
) -> None:
    session_id = new_id()
    for number, key in enumerate(spellings(session_id)):
        body = session(session_id=session_id.upper() if number % 2 else session_id)
        await store.atomic_apply(runtime_id, body, receipt(), session_store_key=key)
        assert await store.load_session_snapshot(runtime_id) == body


async def test_a_session_store_key_that_is_not_the_snapshots_id_is_refused_names_both_and_leaves_nothing(
    store: Store, runtime_id: str
) -> None:
    session_id, key, proof = new_id(), new_id(), receipt()

    with pytest.raises(SessionKeyMismatch) as refused:
        await store.atomic_apply(
            runtime_id, session(session_id=session_id.upper()), proof, [input_of("a")], session_store_key=key.upper()
        )

    assert (refused.value.expected, refused.value.actual) == (key, session_id)
    assert await everything(store, runtime_id) == NOTHING
    assert await store.load_boundary_receipt(runtime_id, proof.run_id, 0) is None


async def test_a_session_store_key_without_a_delta_is_ignored(store: Store, runtime_id: str) -> None:
    body = session()
    await store.commit_session_snapshot(runtime_id, body)

    await store.atomic_apply(runtime_id, receipt=receipt(), session_store_key=new_id())
    await store.atomic_apply(runtime_id, receipt=receipt(), session_store_key="no uuid at all")

    assert await store.load_session_snapshot(runtime_id) == body


async def test_a_delta_without_a_session_store_key_may_be_any_session(store: Store, runtime_id: str) -> None:
    for body in (session(), session()):
        await store.atomic_apply(runtime_id, body, receipt())
        assert await store.load_session_snapshot(runtime_id) == body


async def test_a_session_store_key_that_is_no_uuid_is_refused(store: Store, runtime_id: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await store.atomic_apply(runtime_id, session(), receipt(), session_store_key="rt:session:1")

    assert [violation.field for violation in refused.value.violations] == ["session_store_key"]


@pytest.mark.parametrize("with_boundary", [True, False])
async def test_every_snapshot_is_listed_without_its_body(
    app: Application, store: Store, realm: str, runtime_id: str, with_boundary: bool
) -> None:
    for name in SESSION_SAMPLES:
        body = sample(name)
        document = json.loads(body)
        if with_boundary:
            await store.atomic_apply(runtime_id, body, receipt())
        else:
            await store.commit_session_snapshot(runtime_id, body)

        (listed,) = await rows(app, sessions, realm=realm, session_id=document["id"])
        assert listed == {
            "realm": realm,
            "session_id": document["id"],
            "runtime_id": runtime_id,
            "created_at_ms": _milliseconds(document["created_at"]),
            "updated_at_ms": _milliseconds(document["updated_at"]),
            "message_count": len(document["messages"]),
            "total_tokens": document["usage"]["input_tokens"] + document["usage"]["output_tokens"],
        }


async def test_a_boundary_without_a_delta_lists_nothing(app: Application, store: Store, realm: str) -> None:
    await store.atomic_apply("rt", receipt=receipt(), session_store_key=new_id())

    assert await rows(app, sessions, realm=realm) == []


async def test_a_refused_snapshot_is_not_listed(app: Application, store: Store, realm: str, runtime_id: str) -> None:
    proof = receipt()
    await store.atomic_apply(runtime_id, receipt=proof)
    for call in (
        store.atomic_apply(runtime_id, session(), proof),
        store.commit_session_snapshot(runtime_id, session(), if_revision=7),
        store.atomic_apply(runtime_id, session(), receipt(), session_store_key=new_id()),
    ):
        with pytest.raises(Exception, match=r"receipt|revision|key"):
            await call

    assert await rows(app, sessions, realm=realm) == []


async def test_a_session_that_moves_to_another_runtime_is_listed_with_the_last_one(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    session_id = new_id()
    await store.commit_session_snapshot(runtime_id, session(session_id=session_id))
    await store.commit_session_snapshot(f"{runtime_id}/2", session(session_id=session_id, messages=[]))

    (listed,) = await rows(app, sessions, realm=realm, session_id=session_id)
    assert (listed["runtime_id"], listed["message_count"]) == (f"{runtime_id}/2", 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"usage": None}, {"total_tokens": 0}),
        ({"usage": {"input_tokens": 2**64 - 1, "output_tokens": 2**64 - 1}}, {"total_tokens": INT64_MAX}),
        (
            {"created_at": {"secs_since_epoch": 2**63 - 1, "nanos_since_epoch": 10**9 - 1}},
            {"created_at_ms": INT64_MAX},
        ),
        ({"updated_at": {"secs_since_epoch": 1, "nanos_since_epoch": 1_999_999}}, {"updated_at_ms": 1001}),
    ],
)
async def test_numbers_past_what_a_list_needs_are_listed_as_the_largest_and_stay_in_the_snapshot(
    app: Application, store: Store, realm: str, runtime_id: str, fields: dict[str, Any], expected: dict[str, int]
) -> None:
    body = session(**fields)
    await store.commit_session_snapshot(runtime_id, body)

    (listed,) = await rows(app, sessions, realm=realm, runtime_id=runtime_id)
    assert {name: listed[name] for name in expected} == expected
    assert await store.load_session_snapshot(runtime_id) == body


def _milliseconds(time: dict[str, int]) -> int:
    return time["secs_since_epoch"] * 1000 + time["nanos_since_epoch"] // 1_000_000


async def test_small_and_large_sessions_replace_each_other_byte_for_byte(store: Store, runtime_id: str) -> None:
    for size_bytes in (10, 9_000_000, 10, 12_000_000, 9_500_000, 10):
        body = session(messages=[{"role": "user", "content": "x" * size_bytes}])

        await store.commit_session_snapshot(runtime_id, body)

        assert await store.load_session_snapshot(runtime_id) == body
