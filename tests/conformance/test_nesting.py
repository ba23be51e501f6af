"""How deep a document may be nested: as deep as anything, but for the members of a session that the runtimes read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from runtimestore import InputState, InputStateInvalid, OpsSnapshotInvalid, SessionSnapshotInvalid
from runtimestore_server.documents import json, nesting, readback
from support.generators.calls import Store
from support.generators.documents import new_id, session
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    import msgspec

LEVELS = [128, 900, 980, 990, 1000, 1100, 20_000]
"""A parser that recurses gives up at about a thousand, depending on the thread."""
PADDINGS = ["", "x" * 300_000]
"""What is over 256 KiB is checked on another thread than a small document, with other calls above it."""

NO_JSON: list[tuple[str, str]] = [
    ("[", "}"),
    ("[", ""),
    ("", "]"),
    ("[" * 1000, "]" * 999 + "01"),
    ("[" * 1000 + "1", "[]" + "]" * 1000),
    ("[" * 1000 + "'", "'" + "]" * 1000),
    ("[" * 1000 + '"', "]" * 1000),
    ("[" * 1000 + '"' + '\\"' * 100_000, "]" * 1000),
    ('{"":' * 1000 + "1,", "}" * 1000),
]


@pytest.mark.parametrize("padding", PADDINGS, ids=["small", "large"])
@pytest.mark.parametrize("levels", LEVELS)
async def test_what_the_runtimes_do_not_name_may_be_nested_as_deep_as_anything(
    store: Store, runtime_id: str, levels: int, padding: str
) -> None:
    deep = f'"deep":[{"[" * levels}"]\\ud800"{"]" * levels},{{"":{"[" * levels}{"]" * levels}}}],"padding":"{padding}"'
    input_id, epoch_id = new_id(), new_id()
    state = InputState(input_id, f'{{{deep},"input_id":"{input_id}","current_state":"queued"}}')
    ops = f'{{"epoch_id":"{epoch_id}",{deep}}}'
    before = b"{" + deep.encode() + b"," + session("two")[1:]
    behind = session("two")[:-1] + b"," + deep.replace("deep", "usual").encode() + b"}"

    await store.persist_input_state(runtime_id, state)
    await store.persist_ops_lifecycle(runtime_id, ops)
    for body in (before, behind, behind.replace(b"two", b"three"), before):
        await store.commit_session_snapshot(runtime_id, body)
        assert await store.load_session_snapshot(runtime_id) == body

    loaded = await store.load_input_state(runtime_id, input_id)
    assert loaded == state
    assert loaded is not None
    assert loaded.seed is not None
    assert loaded.seed.phase == "queued"
    assert await store.load_input_states(runtime_id) == [state]
    assert await store.load_ops_lifecycle(runtime_id) == ops
    assert (await store.load_runtime(runtime_id)).session_snapshot == before


@pytest.mark.parametrize("name", ["messages", "metadata"])
@pytest.mark.parametrize("levels", [126, 1000, 100_000])
async def test_what_the_runtimes_read_of_a_session_is_refused_over_127_levels(
    store: Store, runtime_id: str, levels: int, name: str
) -> None:
    deep = b"[" * levels + b"]" * levels
    body = session("one", metadata={"deep": 5}).replace(b"5}", deep + b"}")
    if name == "messages":
        body = session("one").replace(b'"role"', b'"deep":' + deep + b',"role"')
    beside = body[:-1] + b',"unknown":' + b"[" * 2000 + b"]" * 2000 + b"}"

    for refused in (body, beside):
        with pytest.raises(SessionSnapshotInvalid) as found:
            await store.commit_session_snapshot(runtime_id, refused)

        assert found.value.violations[0].field.startswith(f"session_delta.session_snapshot.{name}")
    assert await store.load_session_snapshot(runtime_id) is None


@pytest.mark.parametrize(("opening", "closing"), NO_JSON)
async def test_what_is_no_json_is_refused_however_deep_it_stands(
    store: Store, runtime_id: str, opening: str, closing: str
) -> None:
    bad = f'"deep":{"[" * 1500}{opening}{closing}{"]" * 1500}'
    input_id = new_id()

    with pytest.raises(InputStateInvalid):
        await store.persist_input_state(
            runtime_id, InputState(input_id, f'{{"input_id":"{input_id}","current_state":"queued",{bad}}}')
        )
    with pytest.raises(OpsSnapshotInvalid):
        await store.persist_ops_lifecycle(runtime_id, f'{{"epoch_id":"{new_id()}",{bad}}}')
    with pytest.raises(SessionSnapshotInvalid):
        await store.commit_session_snapshot(runtime_id, session("one")[:-1] + b"," + bad.encode() + b"}")


async def test_a_small_document_that_is_taken_apart_is_so_where_it_keeps_no_other_call(
    monkeypatch: pytest.MonkeyPatch, runtime_id: str
) -> None:
    threads: set[int] = set()

    def seen(body: bytes) -> Iterator[bytes]:
        threads.add(threading.get_ident())
        return nesting.layers(body)

    monkeypatch.setattr(json, "layers", seen)
    deep = f'"deep":{"[" * 1000}{"]" * 1000}'
    input_id = new_id()
    state = InputState(input_id, f'{{{deep},"input_id":"{input_id}","current_state":"queued"}}')

    async with in_process("memory:") as app, Store(app.address) as store:
        await store.persist_input_state(runtime_id, state)
        await store.persist_ops_lifecycle(runtime_id, f'{{"epoch_id":"{new_id()}",{deep}}}')
        await store.commit_session_snapshot(runtime_id, session("one")[:-1] + b"," + deep.encode() + b"}")

        assert await store.load_input_states(runtime_id) == [state]
    assert threads
    assert threading.get_ident() not in threads


async def test_a_small_session_of_very_many_members_is_read_where_it_keeps_no_other_call(
    monkeypatch: pytest.MonkeyPatch, runtime_id: str
) -> None:
    read: list[tuple[int, int]] = []
    members = readback.members

    def seen(document: bytes | msgspec.Raw) -> list[tuple[str, msgspec.Raw]]:
        found = members(document)
        read.append((len(found), threading.get_ident()))
        return found

    monkeypatch.setattr(readback, "members", seen)
    many = b"".join(b',"%x":0' % number for number in range(12_000))
    twice = many + b',"messages":[]'

    async with in_process("memory:") as app, Store(app.address) as store:
        await store.commit_session_snapshot(runtime_id, session("one"))
        await store.commit_session_snapshot(runtime_id, body := session("two")[:-1] + many + b"}")
        with pytest.raises(SessionSnapshotInvalid, match="must be given once"):
            await store.commit_session_snapshot(runtime_id, session("three")[:-1] + twice + b"}")

        assert await store.load_session_snapshot(runtime_id) == body
    here = threading.get_ident()
    assert {thread == here for count, thread in read if count > 12_000} == {False}
    assert here in {thread for count, thread in read if count < 20}
