"""What a server's settings forbid: limits of documents, writes without a fence.

Another server may have allowed it, or this one before a restart. So what is forbidden is refused only if it is new: the
repeat of a write that landed gets the answer of that write (contract: a repeat is recognised), which the transaction
alone can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtimestore.errors import FieldViolation, InvalidRequest
from runtimestore_server.identifiers import bad_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.settings import Settings
    from runtimestore_server.store import Write

DOCUMENTS = "max_document_bytes"
SNAPSHOTS = "max_session_snapshot_bytes"


class Allowed:
    """What the settings of this server allow."""

    def __init__(self, settings: Settings) -> None:
        self._limit_bytes = {DOCUMENTS: settings.max_document_bytes, SNAPSHOTS: settings.max_session_snapshot_bytes}
        self._require_fence = settings.require_fence

    def refusal(self, write: Write, input_field: str) -> InvalidRequest | None:
        """Why this write may not land as a new one, if so; `input_field` is the path of an input, `{}` its position."""
        if self._require_fence and write.fence is None:
            return bad_field(
                "fence", "is required by this server: acquire the runtime by AcquireRuntime and send its fence"
            )
        return next((found for size in _sizes(write, input_field) if (found := self.over(*size))), None)

    def over(self, limit: str, size_bytes: int, field: str) -> InvalidRequest | None:
        """The refusal of `field` if it is over the setting `limit`."""
        limit_bytes = self._limit_bytes[limit]
        if size_bytes <= limit_bytes:
            return None
        return InvalidRequest(
            f"{field} has {size_bytes} bytes, over the server's {limit} of {limit_bytes}; send less, or raise it",
            metadata={"field": field, "size_bytes": str(size_bytes), "limit_bytes": str(limit_bytes), "limit": limit},
            violations=[FieldViolation(field, f"must have at most {limit_bytes} bytes")],
        )


def _sizes(write: Write, input_field: str) -> Iterator[tuple[str, int, str]]:
    """Under which limit each document of a write is, its size in bytes and its field."""
    if write.snapshot:
        yield SNAPSHOTS, len(write.snapshot.body), "session_delta.session_snapshot"
    if write.receipt:
        yield DOCUMENTS, len(write.receipt.receipt), "receipt"
    for position, document in enumerate(write.inputs):
        yield DOCUMENTS, len(document.state_json), f"{input_field.format(position)}.state_json"
    if write.ops:
        yield DOCUMENTS, len(write.ops.snapshot_json), "snapshot.snapshot_json"
