"""Any batch decides and leaves what its writes would have one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimestore.errors import RuntimeStoreError
from runtimestore_server.store.digests import SEAL_BYTES
from runtimestore_server.store.writes import Write
from support.generators.store_writes import (
    WRITTEN_TABLES,
    boundary,
    commit,
    document,
    new_id,
    oauth,
    rows,
    runtime,
    snapshot,
)

if TYPE_CHECKING:
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.writes import OAuthFlowWrite


RUNTIMES, REQUESTS, RUNS, INPUTS = ("a", "A", "ä"), [new_id() for _ in range(3)], [new_id()], [new_id(), new_id()]


@st.composite
def _writes(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.integers(0, 5)) == 0:
        return {
            "oauth": draw(st.binary(max_size=2)),
            "request_id": draw(st.none() | st.sampled_from(REQUESTS)),
            "expected_version": draw(st.none() | st.integers(0, 3)),
        }
    maybe = st.booleans()
    return {
        "runtime_id": draw(st.sampled_from(RUNTIMES)),
        "request_id": draw(st.none() | st.sampled_from(REQUESTS)),
        "if_revision": draw(st.none() | st.integers(0, 3)),
        "snapshot": snapshot(draw(st.sampled_from("xy")), session_id=RUNS[0]) if draw(maybe) else None,
        "receipt": boundary(RUNS[0], draw(st.sampled_from([0, 1, 2**64 - 1]))) if draw(maybe) else None,
        "inputs": tuple(
            document(draw(st.sampled_from("xy")), input_id=draw(st.sampled_from(INPUTS)))
            for _ in range(draw(st.integers(0, 3)))
        ),
        "runtime_state": draw(st.none() | st.sampled_from(["idle", "running"])),
    }


def _write(fields: dict[str, Any], realm: str) -> Write | OAuthFlowWrite:
    rest = dict(fields)
    if "oauth" in rest:
        return oauth(rest.pop("oauth"), realm=realm, **rest)
    return Write(runtime(rest.pop("runtime_id"), realm), **rest)


def _told(decision: Decision) -> Any:
    if isinstance(decision, RuntimeStoreError):
        return decision.reason, dict(decision.metadata)
    return decision


def _left(database: Database, realm: str) -> dict[str, list[dict[str, Any]]]:
    unlike = {"realm", "recorded_at_ms", "committed_at_ms", "seal"}
    sealed = {"fingerprint", "session_sha256"}

    def alike(name: str, value: Any) -> Any:
        return value[:-SEAL_BYTES] if name in sealed and value else value  # the seal covers the realm

    return {
        table.name: [
            {name: alike(name, value) for name, value in row.items() if name not in unlike}
            for row in rows(database, table)
            if row["realm"] == realm
        ]
        for table in WRITTEN_TABLES
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(_writes(), min_size=1, max_size=6), min_size=1, max_size=3))
def test_a_batch_decides_and_leaves_what_its_writes_would_have_one_by_one(
    database: Database, batches: list[list[dict[str, Any]]]
) -> None:
    together, alone = f"together-{new_id()}", f"alone-{new_id()}"
    for batch in batches:
        # Within a batch runtimes come before OAuth snapshots; writes that wait together have no order of their own.
        ordered = sorted(batch, key=lambda fields: "oauth" in fields)
        at_once = commit(database, *(_write(fields, together) for fields in ordered))
        in_turn = [commit(database, _write(fields, alone))[0] for fields in ordered]

        assert [_told(decision) for decision in at_once] == [_told(decision) for decision in in_turn]
    assert _left(database, together) == _left(database, alone)
