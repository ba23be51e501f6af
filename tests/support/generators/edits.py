"""Sessions on the wire: deltas as edits, documents that change and grow, and what a load tells of them."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.store.versions import edits
from support.generators.documents import new_id, session

if TYPE_CHECKING:
    import random

    from runtimestore.v1.runtime_store_pb2_grpc import RuntimeStoreAsyncStub as Wire


def edited(base: bytes, result: bytes) -> pb.SessionDelta:
    """A session as edits of another."""
    return given(base, edits.find(base, result), result)


def given(base: bytes, found: list[edits.Edit], result: bytes) -> pb.SessionDelta:
    """A session delta of these edits, which say that they come to `result`."""
    return pb.SessionDelta(
        snapshot_edits=pb.SnapshotEdits(
            base_sha256=sha256(base).digest(),
            edits=[pb.Edit(start=start, end=end, replacement=replacement) for start, end, replacement in found],
            sha256=sha256(result).digest(),
        )
    )


def whole(result: bytes) -> pb.SessionDelta:
    """A session as it is."""
    return pb.SessionDelta(session_snapshot=result)


def changed(rng: random.Random, text: bytes) -> bytes:
    """A text that grew, shrank, or was rewritten somewhere, perhaps in the middle of a character."""
    match rng.randrange(6):
        case 0:
            return text + rng.randbytes(rng.randrange(200)).hex().encode()
        case 1:
            start = rng.randrange(len(text) + 1)
            return text[:start] + text[start + rng.randrange(300) :]
        case 2:
            return text
        case 3:
            middle = len(text) // 2
            return text[middle:] + text[:middle]
        case 4:
            return rng.randbytes(rng.randrange(2000)).hex().encode()
        case _:
            changed_text = bytearray(text)
            for _ in range(rng.randrange(1, 8)):
                at = rng.randrange(len(changed_text) + 1)
                changed_text[at : at + rng.randrange(40)] = rng.randbytes(rng.randrange(20)).hex().encode()
            return bytes(changed_text)


SESSION = new_id()
"""The id of the sessions that `grown` makes."""


def grown(turns: int, text: str = "") -> bytes:
    """A session of so many turns."""
    messages = [{"role": "user", "content": f"turn {turn} {text}"} for turn in range(turns)]
    return session(session_id=SESSION, messages=messages)


async def load_session(
    wire: Wire, realm: str, runtime_id: str, **asked: Any
) -> tuple[pb.SessionSnapshotInfo | None, bytes]:
    """The description of a session, and its bytes."""
    request = pb.LoadSessionSnapshotRequest(realm=realm, runtime_id=runtime_id, **asked)
    parts = [part async for part in wire.LoadSessionSnapshot(request)]
    info = parts[0].info if parts else None
    return info, b"".join(part.chunk for part in parts)
