"""Boundary receipts: their check, their stored form, which people can read, their message."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents.identifiers import bad_field, uuid_field
from runtimestore_server.store import reads
from runtimestore_server.store.values import ReceiptDocument

if TYPE_CHECKING:
    from runtimestore_server.store import RuntimeKey

BOUNDARIES = {
    pb.RUN_APPLY_BOUNDARY_IMMEDIATE: "immediate",
    pb.RUN_APPLY_BOUNDARY_RUN_START: "run_start",
    pb.RUN_APPLY_BOUNDARY_RUN_CHECKPOINT: "run_checkpoint",
}
_BY_NAME = {name: number for number, name in BOUNDARIES.items()}


class _StoredReceipt(msgspec.Struct, omit_defaults=True):
    """The stored form: the trait's own JSON form of a receipt."""

    run_id: str
    boundary: str
    contributing_input_ids: list[str]
    message_count: int
    sequence: int
    conversation_digest: str | None = None


_decoder = msgspec.json.Decoder(_StoredReceipt)


def check(receipt: pb.RunBoundaryReceipt) -> ReceiptDocument:
    """Check a receipt and make its stored form.

    Raises:
        InvalidRequest: an id is no UUID, or the boundary is unspecified or unknown.
    """
    run_id = uuid_field(receipt.run_id, "receipt.run_id")
    boundary = BOUNDARIES.get(receipt.boundary)
    if boundary is None:
        raise bad_field("receipt.boundary", "must be immediate, run_start or run_checkpoint")
    body = msgspec.json.encode(
        _StoredReceipt(
            run_id=run_id,
            boundary=boundary,
            contributing_input_ids=[
                uuid_field(input_id, f"receipt.contributing_input_ids[{position}]")
                for position, input_id in enumerate(receipt.contributing_input_ids)
            ],
            message_count=receipt.message_count,
            sequence=receipt.sequence,
            conversation_digest=receipt.conversation_digest if receipt.HasField("conversation_digest") else None,
        )
    )
    return ReceiptDocument(run_id, receipt.sequence, body, sha256(body).digest())


def message(runtime: RuntimeKey, run_id: str, sequence: int, stored: bytes) -> pb.RunBoundaryReceipt:
    """Make the message of a boundary's stored receipt.

    Raises:
        StoredValueCorrupt: it cannot be decoded, or is another boundary's.
    """
    key = {**runtime._asdict(), "run_id": run_id, "sequence": str(sequence)}
    try:
        receipt = read(stored)
    except (ValueError, KeyError):
        raise reads.corrupt("receipts", "cannot be decoded", **key) from None
    if (receipt.run_id, receipt.sequence) != (run_id, sequence):
        raise reads.corrupt("receipts", "is the receipt of another boundary", **key)
    return receipt


def read(stored: bytes) -> pb.RunBoundaryReceipt:
    """Read the receipt of a stored form.

    Raises:
        ValueError, KeyError: it cannot be decoded.
    """
    receipt = _decoder.decode(stored)
    return pb.RunBoundaryReceipt(
        run_id=receipt.run_id,
        boundary=_BY_NAME[receipt.boundary],
        contributing_input_ids=receipt.contributing_input_ids,
        message_count=receipt.message_count,
        sequence=receipt.sequence,
        conversation_digest=receipt.conversation_digest,
    )
