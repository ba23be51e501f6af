"""Rows that no server of this version writes, planted past it."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from runtimestore_server.store import tables
from support.checkers.verified import OF
from support.generators.calls import id_of
from support.generators.documents import session
from support.servers.database import change, delete, insert, rows

if TYPE_CHECKING:
    import sqlalchemy as sa

    from runtimestore_server.app import Application


async def changed_document(app: Application, table: sa.Table, column: str, body: bytes, **key: Any) -> None:
    """Another document, with its own digest."""
    await change(app, table, {column: body, "sha256": sha256(body).digest()}, **key)


async def changed_session(app: Application, body: bytes) -> None:
    """A session as an older server left it, which checked less and sealed nothing."""
    (runtime,) = await rows(app, tables.runtimes, **OF)
    *_, newest = await rows(app, tables.session_versions, **OF)
    at = {**OF, "revision": newest["revision"]}
    digest = sha256(body).digest()
    await delete(app, tables.session_versions, **at)
    values = {"kind": "base", "sha256": digest, "size_bytes": len(body), "body": body, "seal": None}
    await insert(app, tables.session_versions, **{**newest, **values, "committed_at_ms": None})
    assert runtime["session_revision"] == newest["revision"]
    await change(app, tables.runtimes, {"session_sha256": digest}, **OF)


async def other_size(app: Application) -> None:
    """A session as an older server left it, of another size than its row says."""
    *_, newest = await rows(app, tables.session_versions, **OF)
    await changed_session(app, session("text", session_id=newest["session_id"]))
    await change(app, tables.session_versions, {"size_bytes": 1}, **OF, revision=newest["revision"])


def ops_row(runtime_id: str, body: bytes) -> dict[str, Any]:
    return {
        "realm": "default",
        "runtime_id": runtime_id,
        "epoch_id": id_of("epoch"),
        "sha256": sha256(body).digest(),
        "snapshot_json": body,
    }


def request_row(*, revision: int = 1, fingerprint: bytes = bytes(32)) -> dict[str, Any]:
    return {
        "realm": "default",
        "request_id": id_of("request"),
        "fingerprint": fingerprint,
        "revision": revision,
        "recorded_at_ms": time.time_ns() // 1_000_000,  # a server would forget an old one
    }
