"""Remembers requests by their idempotency keys, so that a repeated write of any kind is recognised and replayed."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from runtimestore.errors import RequestIdReused, RuntimeStoreError
from runtimestore_server.store.by_key import select_by_key
from runtimestore_server.store.digests import SEAL_BYTES, SHA256_BYTES
from runtimestore_server.store.engines import RowTaken
from runtimestore_server.store.engines.direct import Answer
from runtimestore_server.store.reads import corrupt, is_count, is_text
from runtimestore_server.store.tables import requests
from runtimestore_server.store.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.writes import AnyWrite


Decision = Outcome | RuntimeStoreError
"""What became of one write of a batch: it landed, or it was refused."""


_KEY = (requests.c.realm, requests.c.request_id)
_ROW = (*_KEY, requests.c.fingerprint, requests.c.revision, requests.c.recorded_at_ms)
"""As `is_sound` takes them."""


class RequestKey(NamedTuple):
    """A request id in its realm."""

    realm: str
    request_id: str


class _Known(NamedTuple):
    """A remembered request."""

    fingerprint: bytes
    revision: int
    sound: bool = True


class RequestMemory:
    """The requests that a batch may repeat, and those it will be remembered by."""

    def __init__(self, database: Database, tx: Connection, batch: Iterable[AnyWrite]) -> None:
        self._database = database
        self._tx = tx
        self._known: dict[RequestKey, _Known] = {}
        self._new: dict[RequestKey, _Known] = {}
        self._inserted: Answer[None] = Answer.found(None)
        keys = sorted({RequestKey(write.realm, write.request_id) for write in batch if write.request_id})
        self._asked: Answer[list[Any]] = (
            database.ask(tx, select_by_key(database, _KEY, _ROW), _KEY, keys) if keys else Answer.found([])
        )

    def load(self) -> None:
        """Take in what is remembered; asked for with the constructor."""
        for row in self._asked():
            sound = is_sound(*row)
            fingerprint = row.fingerprint[:SHA256_BYTES] if sound else b""
            self._known[RequestKey(row.realm, row.request_id)] = _Known(fingerprint, row.revision, sound=sound)

    def recall(self, write: AnyWrite) -> Decision | None:
        """Return the first answer to this request, or the refusal of an id used for another; None if it is new."""
        if not write.request_id:
            return None
        key = RequestKey(write.realm, write.request_id)
        known = self._known.get(key)
        if known is None:
            return None
        if not known.sound:
            return corrupt(requests.name, "does not match its seal", **key._asdict())
        if known.fingerprint != write.fingerprint() and known.fingerprint != write.former_fingerprint():
            return RequestIdReused(
                f"request_id {write.request_id} was used for another request; mint a new id for each new write",
                metadata={"request_id": write.request_id},
            )
        return Outcome(known.revision, replayed=True)

    def remember(self, write: AnyWrite, revision: int) -> None:
        """Take note that this write lands with `revision`."""
        if write.request_id:
            key = RequestKey(write.realm, write.request_id)
            self._known[key] = self._new[key] = _Known(write.fingerprint(), revision)

    def record(self, now_ms: int) -> None:
        """Write down what was remembered, in the transaction of the writes themselves."""
        rows = [
            (*key, sealed(key, known.fingerprint, known.revision, now_ms), known.revision, now_ms)
            for key, known in sorted(self._new.items())
        ]
        self._inserted = self._database.insert_new(self._tx, requests, rows, taken=RowTaken())

    def confirm(self) -> None:
        """See that every id was free, once all statements were sent.

        Raises:
            RowTaken: another transaction was first with one of the ids.
        """
        self._inserted()


def sealed(key: RequestKey, fingerprint: bytes, revision: int, recorded_at_ms: int) -> bytes:
    """Return the stored form of a fingerprint: behind it a seal over the whole row, in which any damage shows.

    Without it one flipped bit would turn a harmless repeat into "used for another request", which is a false failure.
    """
    ids = (part.encode(errors="surrogateescape") for part in key)
    framed = b"\0".join((*ids, b"%d" % revision, b"%d" % recorded_at_ms, fingerprint))
    return fingerprint + sha256(framed).digest()[:SEAL_BYTES]


def is_sound(realm: object, request_id: object, fingerprint: object, revision: object, recorded_at_ms: object) -> bool:
    """Tell whether a row is as it was recorded, by its seal; an older version recorded the fingerprint alone."""
    if not (is_text(realm) and is_text(request_id) and isinstance(fingerprint, bytes)):
        return False
    if not (is_count(revision) and isinstance(revision, int) and isinstance(recorded_at_ms, int)):
        return False
    if len(fingerprint) == SHA256_BYTES:
        return True
    return fingerprint == sealed(RequestKey(realm, request_id), fingerprint[:SHA256_BYTES], revision, recorded_at_ms)


def recorded(tx: Connection, write: AnyWrite, *, now_ms: int) -> bool:
    """Tell whether this request was recorded by the attempt of `now_ms`: that transaction was committed."""
    statement = sa.select(requests.c.fingerprint, requests.c.revision).where(
        requests.c.realm == write.realm, requests.c.request_id == write.request_id, requests.c.recorded_at_ms == now_ms
    )
    row = tx.execute(statement).one_or_none()
    if row is None:
        return False
    key = RequestKey(write.realm, write.request_id or "")
    return bool(row.fingerprint == sealed(key, write.fingerprint(), row.revision, now_ms))


def forget(tx: Connection, *, before_ms: int, most: int) -> int:
    """Delete up to `most` requests recorded before `before_ms`; how many were. Not those whose date is damaged."""
    old = sa.select(*_ROW).where(requests.c.recorded_at_ms < before_ms).order_by(requests.c.recorded_at_ms).limit(most)
    found = [RequestKey(row.realm, row.request_id) for row in tx.execute(old) if is_sound(*row)]
    if found:
        by_key = sa.and_(requests.c.realm == sa.bindparam("r"), requests.c.request_id == sa.bindparam("i"))
        tx.execute(sa.delete(requests).where(by_key), [{"r": realm, "i": request_id} for realm, request_id in found])
    return len(found)
