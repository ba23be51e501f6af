"""The memory of requests: what makes a repeated write recognisable. Shared by every kind of write."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol

import sqlalchemy as sa

from runtimestore.errors import RequestIdReused, RuntimeStoreError
from runtimestore_server.store.keyed import select_by_key
from runtimestore_server.store.reads import corrupt
from runtimestore_server.store.tables import requests
from runtimestore_server.store.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database

SHA256_BYTES = 32
SEAL_BYTES = 16

Decision = Outcome | RuntimeStoreError
"""What became of one write of a batch: it landed, or it was refused."""


class RequestKey(NamedTuple):
    """A request id in its realm."""

    realm: str
    request_id: str


class Repeatable(Protocol):
    """A write that may carry a request id."""

    @property
    def realm(self) -> str:
        """The realm in which the id is unique."""

    @property
    def request_id(self) -> str | None:
        """The id, or None: then a repeat is not recognised."""

    def fingerprint(self) -> bytes:
        """What makes two requests the same."""


class RowTaken(Exception):
    """Another transaction inserted a row meanwhile that could not be locked before: run again, and see it."""


class RequestMemory:
    """The requests that a batch may repeat, and those it will be remembered by."""

    def __init__(self, database: Database, tx: Connection, batch: Iterable[Repeatable]) -> None:
        self._database = database
        self._tx = tx
        self._known: dict[RequestKey, tuple[bytes, int]] = {}
        self._new: dict[RequestKey, tuple[bytes, int]] = {}
        keys = sorted({RequestKey(write.realm, write.request_id) for write in batch if write.request_id})
        if keys:
            columns = (requests.c.realm, requests.c.request_id)
            known = select_by_key(database, columns, (*columns, requests.c.fingerprint, requests.c.revision))
            for row in tx.execute(known, database.keys(columns, keys)):
                self._known[RequestKey(row.realm, row.request_id)] = (row.fingerprint, row.revision)

    def recall(self, write: Repeatable) -> Decision | None:
        """The first answer to this request, or the refusal of an id used for another; None if it is new."""
        if not write.request_id:
            return None
        key = RequestKey(write.realm, write.request_id)
        known = self._known.get(key)
        if known is None:
            return None
        fingerprint, revision = known
        if fingerprint != sealed(key, write.fingerprint(), revision):
            if fingerprint == write.fingerprint():
                return Outcome(revision, replayed=True)  # recorded by a version that sealed nothing
            if not is_sound(*key, fingerprint, revision):
                return corrupt(requests.name, "does not match its seal", **key._asdict())
            return RequestIdReused(
                f"request_id {write.request_id} was used for another request; mint a new id for each new write",
                metadata={"request_id": write.request_id},
            )
        return Outcome(revision, replayed=True)

    def remember(self, write: Repeatable, revision: int) -> None:
        """Take note that this write lands with `revision`."""
        if write.request_id:
            key = RequestKey(write.realm, write.request_id)
            self._known[key] = self._new[key] = (sealed(key, write.fingerprint(), revision), revision)

    def record(self, now_ms: int) -> None:
        """Write down what was remembered, in the transaction of the writes themselves.

        Raises:
            RowTaken: another transaction was first with one of the ids.
        """
        rows = [(*key, fingerprint, revision, now_ms) for key, (fingerprint, revision) in sorted(self._new.items())]
        if self._database.insert_new(self._tx, requests, rows) != len(rows):
            raise RowTaken


def sealed(key: RequestKey, fingerprint: bytes, revision: int) -> bytes:
    """The stored form of a fingerprint: behind it a seal over the whole row, in which a damaged answer shows.

    Without it one flipped bit would turn a harmless repeat into "used for another request", which is a false failure.
    """
    framed = b"\0".join((*(part.encode(errors="surrogateescape") for part in key), b"%d" % revision, fingerprint))
    return fingerprint + sha256(framed).digest()[:SEAL_BYTES]


def is_sound(realm: object, request_id: object, fingerprint: object, revision: object) -> bool:
    """Whether a row is as it was recorded, by its seal; an older version recorded the fingerprint alone."""
    if not (isinstance(realm, str) and isinstance(request_id, str)):
        return False
    if not (isinstance(fingerprint, bytes) and isinstance(revision, int)):
        return False
    if len(fingerprint) == SHA256_BYTES:
        return True
    return fingerprint == sealed(RequestKey(realm, request_id), fingerprint[:SHA256_BYTES], revision)


def recorded(tx: Connection, write: Repeatable, *, now_ms: int) -> bool:
    """Whether this request was recorded by the attempt of `now_ms`: the transaction of that attempt was committed."""
    statement = sa.select(requests.c.fingerprint, requests.c.revision).where(
        requests.c.realm == write.realm,
        requests.c.request_id == write.request_id,
        requests.c.recorded_at_ms == now_ms,
    )
    row = tx.execute(statement).one_or_none()
    if row is None:
        return False
    return bool(
        row.fingerprint == sealed(RequestKey(write.realm, write.request_id or ""), write.fingerprint(), row.revision)
    )


def forget(tx: Connection, *, before_ms: int, most: int) -> int:
    """Delete up to `most` requests recorded before `before_ms`; how many were."""
    old = (
        sa.select(requests.c.realm, requests.c.request_id)
        .where(requests.c.recorded_at_ms < before_ms)
        .order_by(requests.c.recorded_at_ms)
        .limit(most)
    )
    found = [tuple(row) for row in tx.execute(old)]
    if found:
        by_key = sa.and_(requests.c.realm == sa.bindparam("r"), requests.c.request_id == sa.bindparam("i"))
        tx.execute(sa.delete(requests).where(by_key), [{"r": realm, "i": request_id} for realm, request_id in found])
    return len(found)
