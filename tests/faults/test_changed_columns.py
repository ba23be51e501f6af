"""Columns whose types change under statements that are prepared: no caller is refused for it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import grpc.aio
import psycopg
from sqlalchemy.engine import make_url

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc
from runtimestore_server.store.engines.database import LARGE_BYTES
from support.generators.documents import new_id, session
from support.generators.requests import ALL, WRITES, request_of
from support.servers.server import in_process

if TYPE_CHECKING:
    from support.servers.postgres import Cluster

OFTEN = 24
"""Runs after which a statement is prepared on each connection that they may have gone to."""
LARGE = {"session_delta": pb.SessionDelta(session_snapshot=session(text="x" * LARGE_BYTES))}
"""As much as does not go through a pipeline."""
STREAMS = ("LoadInputStates", "LoadSessionSnapshot")


def _change(url: str, to: str) -> None:
    """Make this the type of each column of text, or of what was text: as good, and another one to a statement."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        found = connection.execute(
            "SELECT format('ALTER TABLE %%I ALTER %%I TYPE %%s COLLATE \"C\"', table_name, column_name, %s::text)"
            " FROM information_schema.columns WHERE table_schema = current_schema()"
            " AND data_type IN ('text', 'character varying') AND table_name <> 'store_identity'",
            [to],
        ).fetchall()
        assert found
        for (statement,) in found:
            connection.execute(statement)


async def _call(wire: Any, method: str, **changed: Any) -> None:
    sent: dict[str, Any] = {"request_id": new_id()} if method in WRITES else {}
    if method == "AtomicApply":
        sent["receipt"] = pb.RunBoundaryReceipt(run_id=new_id(), boundary=pb.RUN_APPLY_BOUNDARY_IMMEDIATE)
    if method == "UpdateAuthOAuthFlowSnapshot":
        sent["expected_version"] = (await wire.LoadAuthOAuthFlowSnapshot(pb.LoadAuthOAuthFlowSnapshotRequest())).version
    called = getattr(wire, method)(request_of(method, **sent, **changed))
    if method in STREAMS:
        assert [part async for part in called] or method == "LoadSessionSnapshot"
    else:
        await called


async def test_calls_are_answered_though_what_was_prepared_for_them_finds_other_types(
    postgres_cluster: Cluster,
) -> None:
    url = postgres_cluster.fresh_database()
    types = itertools.cycle(("varchar", "text"))
    server = in_process(url, committer_threads=1, reader_threads=1)
    async with server as app, grpc.aio.insecure_channel(app.address) as channel:
        wire = runtime_store_pb2_grpc.RuntimeStoreStub(channel)
        for method, changed in (*((method, {}) for method in ALL), ("CommitSessionSnapshot", LARGE)):
            for _ in range(OFTEN):
                await _call(wire, method, **changed)
            _change(url, next(types))
            for _ in range(2):
                await _call(wire, method, **changed)
    postgres_cluster.drop(url)
