"""Refuses what a server's settings forbid: documents over a limit, writes without a fence.

Another server may have allowed it, or this one before a restart. So what is forbidden is refused only if it is new: the
repeat of a write that landed gets the answer of that write (contract: a repeat is recognised), which the transaction
alone can tell.

A new limit is one more `yield` in `_refusals`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from runtimestore.errors import FieldViolation, InvalidRequest
from runtimestore_server.documents import ops, session_envelope
from runtimestore_server.documents.identifiers import bad_field
from runtimestore_server.store import OAuthFlowWrite, Write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.settings import Settings

AnyWrite = TypeVar("AnyWrite", Write, OAuthFlowWrite)


class Limits:
    """The limits that the settings of this server set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def checked(self, write: AnyWrite, input_field: str = "") -> AnyWrite:
        """Check a write against the limits; `input_field` is the path of an input, `{}` its position.

        What is over one comes back without its documents: it may only repeat a write that landed.

        Raises:
            InvalidRequest: it is over a limit, and without a request id nothing would recognise it.
        """
        refusal = next(self._refusals(write, input_field), None)
        if refusal is None:
            return write
        if write.request_id is None:
            raise refusal
        return write.disallow(refusal)

    def _refusals(self, write: Write | OAuthFlowWrite, input_field: str) -> Iterator[InvalidRequest]:
        if isinstance(write, OAuthFlowWrite):
            yield from self._over("max_document_bytes", len(write.snapshot_json), "snapshot_json")
            return
        if self._settings.require_fence and write.fence is None:
            yield bad_field(
                "fence", "is required by this server: acquire the runtime by AcquireRuntime and send its fence"
            )
        if write.snapshot:
            yield from self._over("max_session_snapshot_bytes", len(write.snapshot.body), session_envelope.FIELD)
        if write.receipt:
            yield from self._over("max_document_bytes", len(write.receipt.receipt), "receipt")
        for position, document in enumerate(write.inputs):
            field = f"{input_field.format(position)}.state_json"
            yield from self._over("max_document_bytes", len(document.state_json), field)
        if write.ops:
            yield from self._over("max_document_bytes", len(write.ops.snapshot_json), ops.FIELD)

    def _over(self, setting: str, size_bytes: int, field: str) -> Iterator[InvalidRequest]:
        """Make the refusal of `field` if it is over the setting."""
        limit_bytes: int = getattr(self._settings, setting)
        if size_bytes > limit_bytes:
            cure = f"send less, or raise {setting} of the server"
            if setting == "max_document_bytes":  # these are read in one message
                cure += ", and above 4 MiB the receive limit (grpc.max_receive_message_length) of whoever reads it"
            yield InvalidRequest(
                f"{field} has {size_bytes} bytes, over the server's {setting} of {limit_bytes}; {cure}",
                metadata={
                    "field": field,
                    "size_bytes": str(size_bytes),
                    "limit_bytes": str(limit_bytes),
                    "limit": setting,
                    "store_error": "write_failed",
                },
                violations=[FieldViolation(field, f"must have at most {limit_bytes} bytes; {cure}")],
            )
