"""Gives a write two forms that mean the same: a short one, of what changed, and the whole one behind it.

The short form goes first. A server that finds that it rests on something else than what is stored refuses it, and
nothing is written; then the whole follows, under the same request id.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from runtimestore import _messages as messages
from runtimestore._edits import find_edits
from runtimestore.errors import BoundaryReceiptExists, InvalidField, RevisionMismatch, SnapshotBaseMismatch
from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore._known import KnownRuntimes
    from runtimestore.errors import RuntimeStoreError
    from runtimestore.types import InputState

__all__ = ["Forms", "RuntimeWriteRequest"]

_SHORT_REFUSED = (SnapshotBaseMismatch, RevisionMismatch, InvalidField)
"""What refuses a short form that may be fine as a whole; the last where a server of an older version does not know it.
What refuses the whole as well is told by the answer to that."""

RuntimeWriteRequest: TypeAlias = (
    pb.CommitSessionSnapshotRequest
    | pb.AtomicApplyRequest
    | pb.CommitMachineLifecycleRequest
    | pb.PersistInputStateRequest
    | pb.PersistOpsLifecycleRequest
)

Q = TypeVar("Q", bound=RuntimeWriteRequest)


class Forms(Generic[Q]):
    """The forms of one write to a runtime; `request` is the one that is sent now."""

    def __init__(
        self,
        known: KnownRuntimes,
        request: Q,
        *,
        session: bytes | None = None,
        inputs: Sequence[InputState] = (),
    ) -> None:
        """`request` has what both forms share: all but the session and, where there may be many, the inputs."""
        self._known = known
        self._since = known.revision(request.runtime_id)
        self._shared: Q = request
        self._body = session
        self._before = known.session(request.runtime_id) if session is not None else None
        self._session = known.described(session, self._before)
        self._inputs = self._sent = inputs
        """All that are meant, and those that are sent: the store is known to have the others."""
        self._is_short = False
        self._sends_edits = False
        self.request: Q = self._form(self._edits(), self._partial())

    def instead(self, error: RuntimeStoreError) -> bool:
        """Tell whether the refused form was the short one: the whole one is sent now."""
        # Without its base a session's id is not seen. A key of another session is told before what the boundary has.
        hides_the_key = self._sends_edits and isinstance(error, BoundaryReceiptExists)
        if not (hides_the_key or (self._is_short and isinstance(error, _SHORT_REFUSED))):
            return False
        self._known.forget(self._shared.runtime_id)
        self.request = self._form(None, None)
        return True

    def committed(self, revision: int, *, replayed: bool) -> None:
        """Remember what the store holds now."""
        since = 0 if replayed else self._since
        self._known.committed(self._shared.runtime_id, revision, since=since, session=self._session, inputs=self._sent)

    def _edits(self) -> pb.SnapshotEdits | None:
        """Return the session as edits of the one that the store holds; `None` where the whole is not much longer."""
        before, session = self._before, self._session
        if before is None or session is None:
            return None
        edits = find_edits(before.body, session.body, agreed=session.agreed_bytes)
        if edits is None:
            return None
        return pb.SnapshotEdits(
            base_sha256=before.sha256,
            edits=(pb.Edit(start=edit.start, end=edit.end, replacement=edit.replacement) for edit in edits),
            sha256=session.sha256,
        )

    def _partial(self) -> tuple[int, list[InputState], pb.PartialInputs] | None:
        """Return the inputs that changed, since which revision, and what stands for all of them."""
        request = self._shared
        if not self._inputs or not isinstance(request, pb.AtomicApplyRequest | pb.CommitMachineLifecycleRequest):
            return None
        some = self._known.changed_inputs(request.runtime_id, self._inputs)
        own = request.if_revision if request.HasField("if_revision") else None
        if some is None or own not in (None, some.revision):
            return None
        return some.revision, some.changed, pb.PartialInputs(all_sha256=some.all_sha256, if_revision=own)

    def _form(
        self,
        edits: pb.SnapshotEdits | None,
        partial: tuple[int, list[InputState], pb.PartialInputs] | None,
    ) -> Q:
        self._sends_edits = edits is not None
        self._is_short = self._sends_edits or partial is not None
        form = copy.deepcopy(self._shared)
        if self._body is not None and isinstance(form, pb.CommitSessionSnapshotRequest | pb.AtomicApplyRequest):
            if edits is None:
                form.session_delta.session_snapshot = self._body
            else:
                form.session_delta.snapshot_edits.CopyFrom(edits)
        if isinstance(form, pb.AtomicApplyRequest | pb.CommitMachineLifecycleRequest):
            inputs = self._inputs
            if partial is not None:
                form.if_revision, inputs = partial[:2]
                form.partial_inputs.CopyFrom(partial[2])
            self._sent = inputs
            field = form.input_updates if isinstance(form, pb.AtomicApplyRequest) else form.input_states
            field.extend(map(messages.stored_input, inputs))
        return form
