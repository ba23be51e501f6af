"""The plain peer's handlers: a call is one `AsyncSession` and one transaction; answered after COMMIT.

What it promises is less than RuntimeStore does: no memory of request ids, no `if_revision`, no fences, no digests, no
earlier versions, and it takes whole documents alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from bench.plain.tables import Input, OAuthFlows, Receipt, Runtime, Session, Snapshot, Table
from runtimestore.errors import OAuthFlowSnapshotChanged
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as pb_grpc
from runtimestore_server.rpc.status import STATUS_DETAILS_KEY, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    Context = grpc.aio.ServicerContext[Any, Any]

CHUNK_BYTES = 1024 * 1024
"""What RuntimeStore sends at a time, too."""


class PlainStore(pb_grpc.RuntimeStoreServicer):
    """The methods that the workloads call. `insert` is the dialect's, which knows ON CONFLICT."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], insert: Callable[[type[Table]], Any]) -> None:
        self._sessions = sessions
        self._insert = insert

    async def AtomicApply(self, request: pb.AtomicApplyRequest, context: Context) -> pb.AtomicApplyResponse:
        """Write the session, the receipt and the inputs."""
        receipt = request.receipt
        try:
            async with self._sessions.begin() as session:
                revision = await self._next_revision(session, request.runtime_id)
                if request.HasField("session_delta"):
                    await self._write_session(session, request.runtime_id, request.session_delta.session_snapshot)
                session.add(
                    Receipt(
                        runtime_id=request.runtime_id,
                        run_id=receipt.run_id,
                        sequence=receipt.sequence,
                        receipt=receipt.SerializeToString(),
                    )
                )
                await self._write_inputs(session, request.runtime_id, request.input_updates)
        except IntegrityError:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "the boundary has a receipt")
        return pb.AtomicApplyResponse(revision=revision)

    async def CommitSessionSnapshot(
        self, request: pb.CommitSessionSnapshotRequest, context: Context
    ) -> pb.CommitSessionSnapshotResponse:
        """Write the session."""
        del context
        async with self._sessions.begin() as session:
            revision = await self._next_revision(session, request.runtime_id)
            await self._write_session(session, request.runtime_id, request.session_delta.session_snapshot)
        return pb.CommitSessionSnapshotResponse(revision=revision)

    async def PersistInputState(
        self, request: pb.PersistInputStateRequest, context: Context
    ) -> pb.PersistInputStateResponse:
        """Write one input."""
        del context
        async with self._sessions.begin() as session:
            revision = await self._next_revision(session, request.runtime_id)
            await self._write_inputs(session, request.runtime_id, [request.state])
        return pb.PersistInputStateResponse(revision=revision)

    async def CommitMachineLifecycle(
        self, request: pb.CommitMachineLifecycleRequest, context: Context
    ) -> pb.CommitMachineLifecycleResponse:
        """Write the state and the inputs."""
        del context
        async with self._sessions.begin() as session:
            revision = await self._next_revision(session, request.runtime_id, state=request.commit.runtime_state)
            await self._write_inputs(session, request.runtime_id, request.input_states)
        return pb.CommitMachineLifecycleResponse(revision=revision)

    async def PersistOpsLifecycle(
        self, request: pb.PersistOpsLifecycleRequest, context: Context
    ) -> pb.PersistOpsLifecycleResponse:
        """Write the registry of background operations."""
        del context
        json.loads(request.snapshot.snapshot_json)
        async with self._sessions.begin() as session:
            ops = request.snapshot.snapshot_json
            revision = await self._next_revision(session, request.runtime_id, ops_json=ops)
        return pb.PersistOpsLifecycleResponse(revision=revision)

    async def LoadInputStates(
        self, request: pb.LoadInputStatesRequest, context: Context
    ) -> AsyncIterator[pb.LoadInputStatesResponse]:
        """Read all inputs."""
        del context
        async with self._sessions() as session:
            runtime = await session.get(Runtime, request.runtime_id)
            asked = select(Input).where(Input.runtime_id == request.runtime_id).order_by(Input.input_id)
            found = (await session.scalars(asked)).all()
        answer = pb.LoadInputStatesResponse(revision=runtime.revision if runtime else 0)
        size_bytes = 0
        for state in found:
            if size_bytes > CHUNK_BYTES:
                yield answer
                answer, size_bytes = pb.LoadInputStatesResponse(), 0
            answer.input_states.append(pb.StoredInputState(input_id=state.input_id, state_json=state.state_json))
            size_bytes += len(state.state_json)
        yield answer

    async def LoadSessionSnapshot(
        self, request: pb.LoadSessionSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.LoadSessionSnapshotResponse]:
        """Read the session."""
        async with self._sessions() as session:
            asked = select(Snapshot.document, Runtime.revision).join(Runtime)
            found = (await session.execute(asked.where(Snapshot.runtime_id == request.runtime_id))).first()
        if found is None:
            context.set_trailing_metadata((("runtimestore-revision", "0"),))
            return
        document, revision = found
        yield pb.LoadSessionSnapshotResponse(
            info=pb.SessionSnapshotInfo(
                session_id=json.loads(document)["id"],
                size_bytes=len(document),
                sha256=hashlib.sha256(document).digest(),
                revision=revision,
                committed_revision=revision,
            )
        )
        for start in range(0, len(document), CHUNK_BYTES):
            yield pb.LoadSessionSnapshotResponse(chunk=document[start : start + CHUNK_BYTES])

    async def LoadBoundaryReceipt(
        self, request: pb.LoadBoundaryReceiptRequest, context: Context
    ) -> pb.LoadBoundaryReceiptResponse:
        """Read one receipt."""
        del context
        async with self._sessions() as session:
            runtime = await session.get(Runtime, request.runtime_id)
            found = await session.get(Receipt, (request.runtime_id, request.run_id, request.sequence))
        receipt = pb.RunBoundaryReceipt.FromString(found.receipt) if found else None
        return pb.LoadBoundaryReceiptResponse(receipt=receipt, revision=runtime.revision if runtime else 0)

    async def LoadRuntimeState(
        self, request: pb.LoadRuntimeStateRequest, context: Context
    ) -> pb.LoadRuntimeStateResponse:
        """Read the state."""
        del context
        async with self._sessions() as session:
            runtime = await session.get(Runtime, request.runtime_id)
        if runtime is None:
            return pb.LoadRuntimeStateResponse()
        state = None if runtime.state is None else pb.RuntimeState.ValueType(runtime.state)
        return pb.LoadRuntimeStateResponse(state=state, revision=runtime.revision)

    async def LoadOpsLifecycle(
        self, request: pb.LoadOpsLifecycleRequest, context: Context
    ) -> pb.LoadOpsLifecycleResponse:
        """Read the registry of background operations."""
        del context
        async with self._sessions() as session:
            runtime = await session.get(Runtime, request.runtime_id)
        if runtime is None or runtime.ops_json is None:
            return pb.LoadOpsLifecycleResponse()
        epoch_id = json.loads(runtime.ops_json)["epoch_id"]
        snapshot = pb.PersistedOpsSnapshot(snapshot_json=runtime.ops_json, epoch_id=epoch_id)
        return pb.LoadOpsLifecycleResponse(snapshot=snapshot, revision=runtime.revision)

    async def LoadAuthOAuthFlowSnapshot(
        self, request: pb.LoadAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.LoadAuthOAuthFlowSnapshotResponse:
        """Read the OAuth flow snapshot and its version."""
        del context
        async with self._sessions() as session:
            found = await session.get(OAuthFlows, request.realm)
        if found is None:
            return pb.LoadAuthOAuthFlowSnapshotResponse()
        return pb.LoadAuthOAuthFlowSnapshotResponse(snapshot_json=found.document, version=found.version)

    async def UpdateAuthOAuthFlowSnapshot(
        self, request: pb.UpdateAuthOAuthFlowSnapshotRequest, context: Context
    ) -> pb.UpdateAuthOAuthFlowSnapshotResponse:
        """Replace the OAuth flow snapshot if its version is the expected one."""
        version = request.expected_version + 1
        insert = self._insert(OAuthFlows).values(realm=request.realm, version=version, document=request.snapshot_json)
        write = insert.on_conflict_do_update(
            index_elements=["realm"],
            set_={"version": version, "document": request.snapshot_json},
            where=OAuthFlows.version == request.expected_version,
        ).returning(OAuthFlows.version)
        async with self._sessions.begin() as session:
            written = (await session.execute(write)).scalar_one_or_none()
        if written is None:
            changed = OAuthFlowSnapshotChanged("the snapshot is at another version")
            details = status_of(changed, request.request_id).SerializeToString()
            await context.abort(changed.code, changed.message, ((STATUS_DETAILS_KEY, details),))
        return pb.UpdateAuthOAuthFlowSnapshotResponse(version=version)

    async def _next_revision(self, session: AsyncSession, runtime_id: str, **values: object) -> int:
        """Write the runtime's row first: it is what the writers of one runtime wait for."""
        insert = self._insert(Runtime).values(runtime_id=runtime_id, revision=1, **values)
        write = insert.on_conflict_do_update(
            index_elements=["runtime_id"], set_={"revision": Runtime.revision + 1, **values}
        ).returning(Runtime.revision)
        return int((await session.execute(write)).scalar_one())

    async def _write_session(self, session: AsyncSession, runtime_id: str, document: bytes) -> None:
        parsed = json.loads(document)
        usage = parsed.get("usage", {})
        projection = {
            "session_id": parsed["id"],
            "runtime_id": runtime_id,
            "updated_at_ms": parsed["updated_at"]["secs_since_epoch"] * 1000,
            "message_count": len(parsed["messages"]),
            "total_tokens": usage.get("input_tokens", 0) + usage.get("output_tokens", 0),
        }
        await self._upsert(session, Snapshot, [{"runtime_id": runtime_id, "document": document}])
        await self._upsert(session, Session, [projection])

    async def _write_inputs(
        self, session: AsyncSession, runtime_id: str, states: Iterable[pb.StoredInputState]
    ) -> None:
        rows = {
            state.input_id: {"runtime_id": runtime_id, "input_id": state.input_id, "state_json": state.state_json}
            for state in states
            if json.loads(state.state_json)["input_id"] == state.input_id
        }
        if rows:
            await self._upsert(session, Input, list(rows.values()))

    async def _upsert(self, session: AsyncSession, table: type[Table], rows: list[dict[str, Any]]) -> None:
        insert = self._insert(table)
        keys = [column.name for column in table.__table__.primary_key]
        values = {name: insert.excluded[name] for name in rows[0] if name not in keys}
        await session.execute(insert.on_conflict_do_update(index_elements=keys, set_=values), rows)
