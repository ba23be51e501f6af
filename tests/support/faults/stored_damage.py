"""What can be wrong in a row of a filled store, each planted past the server, and what `verify` says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtimestore_server.store import tables
from support.checkers.verified import OF, SESSION_OF
from support.faults.older_rows import changed_document, changed_session, ops_row, other_size, request_row
from support.generators.calls import id_of, input_of
from support.generators.documents import new_id, session
from support.servers.database import change, delete, flip_a_byte, insert

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.app import Application

INPUT = {**OF, "input_id": input_of("").input_id}
OTHER_SESSION = session("text", session_id=id_of("session of nobody"))

# What is damaged, and the kind, the table and a part of the key of the one finding.
DAMAGE: dict[str, tuple[Callable[[Application], Any], str, str, dict[str, Any]]] = {
    "a snapshot": (
        lambda app: flip_a_byte(app, tables.session_versions.c.body, **OF),
        "digest_mismatch",
        "session_versions",
        OF,
    ),
    "a digest": (lambda app: flip_a_byte(app, tables.inputs.c.sha256, **INPUT), "digest_mismatch", "inputs", INPUT),
    "a receipt": (lambda app: flip_a_byte(app, tables.receipts.c.receipt, **OF), "digest_mismatch", "receipts", OF),
    "an ops document": (
        lambda app: flip_a_byte(app, tables.ops_snapshots.c.snapshot_json, **OF),
        "digest_mismatch",
        "ops_snapshots",
        OF,
    ),
    "an oauth snapshot": (
        lambda app: flip_a_byte(app, tables.oauth_flow_snapshots.c.snapshot_json, realm="default"),
        "digest_mismatch",
        "oauth_flow_snapshots",
        {"realm": "default"},
    ),
    "no session": (
        lambda app: changed_session(app, b"{}"),
        "document_invalid",
        "session_versions",
        OF,
    ),
    "no input": (
        lambda app: changed_document(app, tables.inputs, "state_json", b"[]", **INPUT),
        "document_invalid",
        "inputs",
        INPUT,
    ),
    "no receipt": (
        lambda app: changed_document(app, tables.receipts, "receipt", b"{}", **OF),
        "document_invalid",
        "receipts",
        OF,
    ),
    "no ops document": (
        lambda app: changed_document(app, tables.ops_snapshots, "snapshot_json", b"\xff", **OF),
        "document_invalid",
        "ops_snapshots",
        OF,
    ),
    "a session_id": (
        lambda app: change(app, tables.session_versions, {"session_id": new_id()}, **OF),
        "column_mismatch",
        "session_versions",
        OF,
    ),
    "another session's document": (
        lambda app: changed_session(app, OTHER_SESSION),
        "column_mismatch",
        "session_versions",
        OF,
    ),
    "an epoch_id": (
        lambda app: change(app, tables.ops_snapshots, {"epoch_id": new_id()}, **OF),
        "column_mismatch",
        "ops_snapshots",
        OF,
    ),
    "a sequence": (lambda app: change(app, tables.receipts, {"sequence": 7}, **OF), "column_mismatch", "receipts", OF),
    "a committed revision": (
        lambda app: change(app, tables.receipts, {"committed_revision": 3}, **OF),
        "digest_mismatch",
        "receipts",
        OF,
    ),
    "no committed revision": (
        lambda app: change(app, tables.receipts, {"committed_revision": None}, **OF),
        "digest_mismatch",
        "receipts",
        OF,
    ),
    "a seal of an oauth snapshot": (
        lambda app: change(app, tables.oauth_flow_snapshots, {"version": 2}, realm="default"),
        "digest_mismatch",
        "oauth_flow_snapshots",
        {"realm": "default"},
    ),
    "a revision before that of the session": (
        lambda app: change(app, tables.runtimes, {"revision": 5}, **OF),
        "revision_out_of_order",
        "runtimes",
        OF,
    ),
    "the size of a session without a seal": (
        other_size,
        "column_mismatch",
        "session_versions",
        OF,
    ),
    "a runtime without a row": (
        lambda app: insert(
            app, tables.ops_snapshots, **ops_row("rt:nobody", b'{"epoch_id": "%s"}' % id_of("epoch").encode())
        ),
        "no_runtime",
        "ops_snapshots",
        {"runtime_id": "rt:nobody"},
    ),
    "a session without a runtime": (
        lambda app: insert(
            app,
            tables.sessions,
            realm="default",
            session_id=id_of("x"),
            runtime_id="rt:nobody",
            created_at_ms=1,
            updated_at_ms=1,
            message_count=0,
            total_tokens=0,
        ),
        "no_runtime",
        "sessions",
        {"session_id": id_of("x")},
    ),
    "a projection": (
        lambda app: change(app, tables.sessions, {"total_tokens": 1}, **SESSION_OF),
        "projection_mismatch",
        "sessions",
        SESSION_OF,
    ),
    "a number in the list of sessions": (
        lambda app: change(app, tables.sessions, {"message_count": -1}, **SESSION_OF),
        "column_mismatch",
        "sessions",
        SESSION_OF,
    ),
    "a session that is not listed": (
        lambda app: change(app, tables.sessions, {"session_id": id_of("y")}, **SESSION_OF),
        "no_projection",
        "session_versions",
        OF,
    ),
    "a revision": (
        lambda app: change(app, tables.runtimes, {"revision": 0}, **OF),
        "revision_out_of_order",
        "runtimes",
        OF,
    ),
    "a version": (
        lambda app: change(app, tables.oauth_flow_snapshots, {"version": -1}, realm="default"),
        "revision_out_of_order",
        "oauth_flow_snapshots",
        {"realm": "default"},
    ),
    "which version of a session is the newest": (
        lambda app: change(app, tables.runtimes, {"session_revision": 1}, **OF),
        "column_mismatch",
        "runtimes",
        OF,
    ),
    "when a version was committed": (
        lambda app: change(app, tables.session_versions, {"committed_at_ms": 1}, **OF),
        "column_mismatch",
        "session_versions",
        OF,
    ),
    "a version that edits rest on": (
        lambda app: flip_a_byte(app, tables.session_versions.c.sha256, **OF, revision=1),
        "digest_mismatch",
        "session_versions",
        {**OF, "revision": "1"},
    ),
    "a state": (
        lambda app: change(app, tables.runtimes, {"runtime_state": "bogus"}, **OF),
        "unknown_state",
        "runtimes",
        OF,
    ),
    "a remembered answer": (
        lambda app: insert(app, tables.requests, **request_row(revision=99)),
        "revision_out_of_order",
        "requests",
        {"request_id": id_of("request")},
    ),
    "a fingerprint": (
        lambda app: insert(app, tables.requests, **request_row(fingerprint=b"short")),
        "seal_mismatch",
        "requests",
        {"request_id": id_of("request")},
    ),
    "a seal": (
        lambda app: insert(app, tables.requests, **request_row(fingerprint=bytes(48))),
        "seal_mismatch",
        "requests",
        {"request_id": id_of("request")},
    ),
    "an input of no runtime": (
        lambda app: change(app, tables.inputs, {"runtime_id": "rt:nobody"}, **INPUT),
        "no_runtime",
        "inputs",
        {"runtime_id": "rt:nobody"},
    ),
    "a receipt of no runtime": (
        lambda app: change(app, tables.receipts, {"runtime_id": "rt:nobody"}, **OF),
        "no_runtime",
        "receipts",
        {"runtime_id": "rt:nobody"},
    ),
    "a revision that no write can raise": (
        lambda app: change(app, tables.runtimes, {"revision": 2**63 - 1}, **OF),
        "revision_out_of_order",
        "runtimes",
        OF,
    ),
    "a second identity": (
        lambda app: insert(app, tables.store_identity, singleton=2, store_id=new_id()),
        "column_mismatch",
        "store_identity",
        {},
    ),
    "a snapshot that is gone": (
        lambda app: delete(app, tables.session_versions, **OF),
        "version_missing",
        "runtimes",
        OF,
    ),
    "the store's id": (
        lambda app: change(app, tables.store_identity, {"store_id": "none"}),
        "column_mismatch",
        "store_identity",
        {},
    ),
    "the store's id that is gone": (
        lambda app: delete(app, tables.store_identity),
        "column_mismatch",
        "store_identity",
        {},
    ),
    "a fence": (
        lambda app: insert(
            app, tables.fences, realm="default", runtime_id="rt:fenced", fence=0, owner="o", acquired_at_ms=1
        ),
        "revision_out_of_order",
        "fences",
        {"runtime_id": "rt:fenced"},
    ),
    "when a fence was handed out": (
        lambda app: change(app, tables.fences, {"acquired_at_ms": -1}, realm="default", runtime_id="rt:acquired"),
        "column_mismatch",
        "fences",
        {"runtime_id": "rt:acquired"},
    ),
}
