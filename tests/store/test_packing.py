"""Large documents are packed where they are stored whole, come back byte for byte, and hide no damage."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from runtimestore import AsyncRuntimeStoreClient
from runtimestore.errors import InvalidRequest, SessionKeyMismatch, StoredValueCorrupt
from runtimestore_server.store import tables
from runtimestore_server.store.tables import BASE, EDITS
from runtimestore_server.store.values import Outcome
from runtimestore_server.store.versions import packing
from runtimestore_server.store.versions.edits import Undecodable
from runtimestore_server.store.versions.packing import FORMAT, PIECE_BYTES, packed, unpacked
from runtimestore_server.store.writes import Write
from runtimestore_server.verify import verify
from support.checkers.verified import Told
from support.generators.documents import new_id, receipt, session
from support.generators.store_writes import commit, rows, runtime
from support.generators.versions import folded, kinds, made_of, read
from support.servers.server import in_process

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey, SessionSnapshot

TEXT = b"".join(b'{"role":"user","content":"message %d"},' % number for number in range(40))


@pytest.fixture
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LEAST_BYTES", 1)


def _large(body: bytes) -> SessionSnapshot:
    return made_of(None, body)._replace(packed=packed(body))


def _stored(database: Database, key: RuntimeKey, revision: int) -> bytes:
    found = rows(database, tables.session_versions)
    (body,) = [row["body"] for row in found if (row["runtime_id"], row["revision"]) == (key.runtime_id, revision)]
    assert isinstance(body, bytes)
    return body


def _damage(database: Database, key: RuntimeKey, revision: int, body: bytes) -> None:
    table = tables.session_versions
    named = (table.c.runtime_id == key.runtime_id, table.c.revision == revision)
    with database.writers.begin() as tx:
        tx.execute(sa.update(table).where(*named).values(body=body))


@pytest.mark.parametrize("more", [-1, 0, 1, 3 * PIECE_BYTES, 3 * PIECE_BYTES + 7])
@pytest.mark.parametrize("unlike", [0.0, 0.3])
def test_a_large_document_is_packed_and_comes_back_as_it_was(more: int, unlike: float) -> None:
    size = packing.LEAST_BYTES + more
    random = os.urandom(int(size * unlike))
    body = (TEXT * (size // len(TEXT) + 1))[: size - len(random)] + random

    made = packed(body)

    if size < packing.LEAST_BYTES:
        assert made is None
        return
    assert made is not None
    assert made.startswith(FORMAT)
    assert len(made) < len(body)
    assert unpacked(made, len(body)) == body


@pytest.mark.parametrize("alike", [0, 1024 * 1024])
def test_what_packs_badly_is_stored_as_it_is(alike: int) -> None:
    body = os.urandom(12 * PIECE_BYTES) + bytes(alike)

    assert packed(body) is None


@pytest.mark.usefixtures("_small_ones_too")
@pytest.mark.parametrize("alike", [0, 10])
def test_what_packs_badly_is_found_out_at_its_end_too(alike: int) -> None:
    assert packed(os.urandom(100) + bytes(alike)) is None
    assert packed(os.urandom(100) + bytes(300)) is not None


@pytest.mark.usefixtures("_small_ones_too")
def test_what_is_not_the_packed_form_of_a_document_is_found_out() -> None:
    made = packed(TEXT)
    assert made is not None
    others = [
        (made[:-1], len(TEXT)),
        (made[: len(made) // 2], len(TEXT)),
        (FORMAT, len(TEXT)),
        (made + b"x", len(TEXT)),
        (made + made, len(TEXT)),
        (made, len(TEXT) - 1),
        (made, len(TEXT) + 1),
        (made, None),
        ("text", len(TEXT)),
        (None, len(TEXT)),
    ]
    for stored, size in others:
        with pytest.raises(Undecodable):
            unpacked(stored, size)
    for place in range(len(FORMAT), len(made)):
        for bit in range(8):
            flipped = bytearray(made)
            flipped[place] ^= 1 << bit
            try:
                found = unpacked(bytes(flipped), len(TEXT))
            except Undecodable:
                continue
            # What stands between the last bits and the checksum means nothing.
            assert found == TEXT, (place, bit)


def test_what_a_packed_document_comes_to_beyond_what_its_row_says_takes_no_memory() -> None:
    bomb = packed(bytes(64 * PIECE_BYTES))
    assert bomb is not None
    assert len(bomb) < PIECE_BYTES
    behind = b"".join((FORMAT, zlib.compress(TEXT), bytes(16 * PIECE_BYTES)))

    for stored, size, told in ((bomb, 5, "larger"), (behind, len(TEXT), "behind it")):
        tracemalloc.start()
        try:
            with pytest.raises(Undecodable, match=told):
                unpacked(stored, size)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 4 * PIECE_BYTES


@pytest.mark.usefixtures("_small_ones_too")
def test_versions_that_rest_on_a_packed_one_are_read_folded_and_verified(database: Database) -> None:
    key = runtime()
    bodies = [TEXT, TEXT + b"a", TEXT + b"ab" * 50, TEXT + b"c"]
    assert commit(database, Write(key, snapshot=_large(bodies[0]))) == [Outcome(1)]
    for base, body in pairwise(bodies):
        assert commit(database, Write(key, snapshot=made_of(base, body)))[0] != Outcome(1)

    assert _stored(database, key, 1).startswith(FORMAT)
    assert [read(database, key, revision) for revision in range(1, 5)] == bodies
    folded(database, key)
    assert kinds(database, key) == {1: BASE, 2: EDITS, 3: EDITS, 4: BASE}
    assert _stored(database, key, 4).startswith(FORMAT)
    assert [read(database, key, revision) for revision in range(1, 5)] == bodies
    assert read(database, key) == bodies[-1]
    if not database.ephemeral:
        verify(database, told := Told())
        # Of these documents no runtime could make sense; what they come to is right.
        assert {found.kind for found in told.findings} <= {"document_invalid", "reference_missing"}


@pytest.mark.usefixtures("_small_ones_too")
def test_exactly_what_rests_on_a_damaged_packed_version_is_refused(database: Database) -> None:
    key = runtime()
    bodies = [TEXT, TEXT + b"a", TEXT * 2, TEXT * 2 + b"b"]
    commit(database, Write(key, snapshot=_large(bodies[0])))
    commit(database, Write(key, snapshot=made_of(bodies[0], bodies[1])))
    commit(database, Write(key, snapshot=_large(bodies[2])))
    commit(database, Write(key, snapshot=made_of(bodies[2], bodies[3])))
    sound = _stored(database, key, 1)
    for place in (0, 1, 2, len(sound) // 2, len(sound) - 1):
        damaged = bytearray(sound)
        damaged[place] ^= 1
        _damage(database, key, 1, bytes(damaged))
        for revision in (1, 2):
            with pytest.raises(StoredValueCorrupt, match="revision 1"):
                read(database, key, revision)
        assert [read(database, key, revision) for revision in (3, 4)] == bodies[2:]
        if not database.ephemeral:
            verify(database, told := Told())
            bad = {found.key["revision"] for found in told.findings if found.kind == "digest_mismatch"}
            assert {str(revision) for revision in bad} == {"1", "2"}
    _damage(database, key, 1, sound)
    assert [read(database, key, revision) for revision in range(1, 5)] == bodies


@pytest.mark.usefixtures("_small_ones_too")
def test_an_older_document_that_was_stored_as_it_is_is_read_as_ever(database: Database) -> None:
    key = runtime()
    commit(database, Write(key, snapshot=made_of(None, TEXT)))

    assert _stored(database, key, 1) == TEXT
    assert read(database, key) == TEXT


async def test_only_what_is_found_sound_and_within_the_limits_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def noted(document: bytes) -> bytes | None:
        made.append(len(document))
        return packed(document)

    monkeypatch.setattr(packing, "packed", noted)
    large, larger = (session("x" * (packing.LEAST_BYTES + more)) for more in (0, 2 * PIECE_BYTES))
    limit = packing.LEAST_BYTES + PIECE_BYTES
    async with (
        in_process("memory:", max_session_snapshot_bytes=limit) as app,
        AsyncRuntimeStoreClient(app.address) as store,
    ):
        with pytest.raises(InvalidRequest, match="max_session_snapshot_bytes"):
            await store.commit_session_snapshot("rt:large", larger)
        with pytest.raises(SessionKeyMismatch):
            await store.atomic_apply("rt:large", large, receipt(), session_store_key=new_id())
        assert made == []
        await store.atomic_apply("rt:large", large, receipt())
    assert made == [len(large)]
