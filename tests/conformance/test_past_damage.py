"""One damaged row ends no list for what stands behind it: each is told by its key, and every other one is had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest
import sqlalchemy as sa

from runtimestore import RuntimeState, StoredValueCorrupt
from runtimestore.v1 import runtime_store_admin_pb2 as pb
from runtimestore_server.store import tables
from support.generators.documents import inputs, ops, receipt, session
from support.servers.database import change, delete, flip_a_byte
from support.servers.engines import UNTYPED_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runtimestore_server.app import Application
    from support.generators.calls import Store

    Plant = Callable[[Application, dict[str, Any]], Awaitable[None]]

VERSIONS = tables.session_versions
COUNT = 6
EVERY = list(range(COUNT, 0, -1))
SIZES = (1, 2, 3, COUNT, 1000)


@pytest.fixture
def known_bytes() -> int:
    """The clients remember nothing: what they have they would not read again."""
    return 0


class Page(NamedTuple):
    """What a call of the list came to."""

    revisions: list[int]
    refusal: StoredValueCorrupt | None


def _of_version(which: int, **values: Any) -> Plant:
    async def plant(app: Application, of: dict[str, Any]) -> None:
        await change(app, VERSIONS, values, **of, revision=which)

    return plant


def _lost(revision: int) -> Plant:
    async def plant(app: Application, of: dict[str, Any]) -> None:
        await delete(app, VERSIONS, **of, revision=revision)

    return plant


def _of_runtime(**values: Any) -> Plant:
    async def plant(app: Application, of: dict[str, Any]) -> None:
        await change(app, tables.runtimes, values, **of)

    return plant


async def _several(app: Application, of: dict[str, Any]) -> None:
    for revision in (6, 4, 3, 1):
        await change(app, VERSIONS, {"committed_at_ms": 1}, **of, revision=revision)


# Each with the revisions that are told to be damaged, newest first; of the row of the runtime none is.
DAMAGE: dict[str, tuple[Plant, list[str | None]]] = {
    **{f"version {revision}": (_of_version(revision, size_bytes=1), [str(revision)]) for revision in EVERY},
    **{f"version {revision} lost": (_lost(revision), [str(revision)]) for revision in EVERY[:-1]},
    "several": (_several, ["6", "4", "3", "1"]),
    "two lost": (_of_version(4, revision=2**40), [str(2**40), "4"]),
    "a revision before all": (_of_version(3, revision=-7), ["3", "-7"]),
    "a revision of nobody": (_of_version(3, revision=0), ["3", "0"]),
    "a digest": (_of_version(3, sha256=b"x"), ["3"]),
    "the version before one": (_of_version(3, previous_revision=9), ["3"]),
    "which is the newest": (_of_runtime(session_revision=3), [None]),
    "the digest of the newest": (_of_runtime(session_sha256=b"x"), [None]),
    "no newest": (_of_runtime(session_revision=None, session_sha256=None), [None]),
}
UNTYPED = ("1.5", "'text'", "X'00ff'", "9e999")


async def _written(store: Store, runtime_id: str) -> None:
    for _ in range(COUNT):
        await store.commit_session_snapshot(runtime_id, session())


async def _pages(store: Store, runtime_id: str, size: int) -> list[Page]:
    """All pages of the list; past what is refused by what the refusal says."""
    found: list[Page] = []
    token = ""
    while not found or token:
        assert len(found) <= 2 * COUNT, "it does not end"
        try:
            page = await store.list_session_versions(runtime_id, page_size=size, page_token=token)
        except StoredValueCorrupt as refusal:
            found.append(Page([], refusal))
            token = refusal.next_page_token
        else:
            found.append(Page([version.revision for version in page.versions], None))
            token = page.next_page_token
    return found


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_told_once_and_every_other_version_is_listed_in_pages_of_any_size(
    app: Application, store: Store, realm: str, runtime_id: str, damage: str
) -> None:
    plant, told = DAMAGE[damage]
    await _written(store, runtime_id)
    await plant(app, {"realm": realm, "runtime_id": runtime_id})
    sound = [revision for revision in EVERY if str(revision) not in told]

    for size in SIZES:
        pages = await _pages(store, runtime_id, size)

        refusals = [page.refusal for page in pages if page.refusal is not None]
        assert {refusal.code for refusal in refusals} == {grpc.StatusCode.DATA_LOSS}
        assert [refusal.metadata.get("revision") for refusal in refusals] == told
        assert {refusal.metadata["table"] for refusal in refusals} == {"runtimes" if None in told else VERSIONS.name}
        assert [revision for page in pages for revision in page.revisions] == sound
        assert all(len(page.revisions) <= size for page in pages)


@pytest.mark.needs(UNTYPED_COLUMNS)
@pytest.mark.parametrize("value", UNTYPED)
@pytest.mark.parametrize("revision", [6, 3])
async def test_a_version_whose_revision_is_none_any_more_is_missed_and_the_others_are_listed(
    app: Application, store: Store, realm: str, runtime_id: str, revision: int, value: str
) -> None:
    await _written(store, runtime_id)
    of = {"realm": realm, "runtime_id": runtime_id, "revision": revision}
    await change(app, VERSIONS, {"revision": sa.literal_column(value)}, **of)

    for size in SIZES:
        pages = await _pages(store, runtime_id, size)

        refusals = [page.refusal for page in pages if page.refusal is not None]
        assert [refusal.metadata["revision"] for refusal in refusals] == [str(revision)]
        assert [listed for page in pages for listed in page.revisions] == [each for each in EVERY if each != revision]


async def test_a_page_ends_before_the_damaged_version_and_the_next_one_is_the_refusal_that_names_it(
    app: Application, store: Store, admin: Any, realm: str, runtime_id: str
) -> None:
    await _written(store, runtime_id)
    await change(app, VERSIONS, {"size_bytes": 1}, realm=realm, runtime_id=runtime_id, revision=4)
    asked = pb.ListSessionVersionsRequest(realm=realm, runtime_id=runtime_id, page_size=2)

    pages = await _pages(store, runtime_id, 2)
    first = await admin.ListSessionVersions(asked)

    assert [page.revisions for page in pages] == [[6, 5], [], [3, 2], [1]]
    assert [page.refusal is not None for page in pages] == [False, True, False, False]
    assert [version.revision for version in first.versions] == [6, 5]


async def test_of_a_runtime_with_damage_of_each_kind_every_other_row_is_had(
    app: Application, store: Store, realm: str, runtime_id: str
) -> None:
    of = {"realm": realm, "runtime_id": runtime_id}
    states, receipts, bodies = inputs(5), [receipt() for _ in range(4)], [session() for _ in range(4)]
    await store.commit_machine_lifecycle(runtime_id, RuntimeState.IDLE, states)
    await store.persist_ops_lifecycle(runtime_id, ops())
    for body, proof in zip(bodies, receipts, strict=True):
        await store.atomic_apply(runtime_id, body, proof)
    revisions = [version.revision for version in (await store.list_session_versions(runtime_id)).versions]
    lost = revisions[1]  # its digest: what rests on its bytes has them
    await flip_a_byte(app, tables.inputs.c.state_json, **of, input_id=states[1].input_id)
    await flip_a_byte(app, tables.receipts.c.receipt, **of, run_id=receipts[2].run_id)
    await flip_a_byte(app, VERSIONS.c.sha256, **of, revision=lost)

    with pytest.raises(StoredValueCorrupt) as refused:
        await store.load_runtime(runtime_id)
    assert refused.value.metadata["input_id"] == states[1].input_id
    found = await store.load_readable_input_states(runtime_id)
    assert found.input_states == [states[0], *states[2:]]
    assert [corrupt.input_id for corrupt in found.corrupt_inputs] == [states[1].input_id]
    for proof in receipts:
        if proof is receipts[2]:
            with pytest.raises(StoredValueCorrupt):
                await store.load_boundary_receipt(runtime_id, proof.run_id, proof.sequence)
        else:
            assert await store.load_boundary_receipt(runtime_id, proof.run_id, proof.sequence) == proof
    pages = await _pages(store, runtime_id, 1000)
    assert [page.revisions for page in pages] == [revisions[:1], [], revisions[2:]]
    for revision, body in zip(revisions, reversed(bodies), strict=True):
        if revision == lost:
            with pytest.raises(StoredValueCorrupt):
                await store.load_session_snapshot(runtime_id, as_of_revision=revision)
        else:
            assert await store.load_session_snapshot(runtime_id, as_of_revision=revision) == body
    assert await store.load_runtime_state(runtime_id) is RuntimeState.IDLE
    assert await store.load_ops_lifecycle(runtime_id) is not None
