"""Packs large documents for storage, and unpacks them: what SQLite's one writer has to write, all others wait for.

Both go by pieces, and zlib leaves the interpreter to others meanwhile, so that small calls beside them come on.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from runtimestore_server.store.versions.edits import Undecodable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.store.writes import Write

FORMAT = b"\x02"
"""How the packed form begins; no JSON document, and no edits, do."""

LEAST_BYTES = 4 * 1024 * 1024
"""From this size on documents are packed; what is smaller is written in some milliseconds."""

PIECE_BYTES = 1024 * 1024
READ_BYTES = 64 * 1024
"""How much is given to be unpacked at once: what does not fit into a piece of the document is copied."""

TRIED_BYTES = 4 * 1024 * 1024
"""After so much it is seen whether the rest is worth it."""

LEVEL = 1
"""zlib's fastest, 4 ms a MB of what repeats itself, 11 of text, 20 where half of it is random."""


def packed(document: bytes) -> bytes | None:
    """Make the packed form of a document; None where it is small, or more than half as large then."""
    if len(document) < LEAST_BYTES:
        return None
    stream = zlib.compressobj(LEVEL)
    with io.BytesIO() as made, memoryview(document) as view:
        made.write(FORMAT)
        for start in range(0, len(view), PIECE_BYTES):
            made.write(stream.compress(view[start : start + PIECE_BYTES]))
            if start + PIECE_BYTES >= TRIED_BYTES and not _pays(made.tell(), start + PIECE_BYTES):
                return None
        made.write(stream.flush())
        return made.getvalue() if _pays(made.tell(), len(document)) else None


def as_stored(write: Write) -> Write:
    """Return a write with its session packed, where that is large and no edits are stored in its place."""
    snapshot = write.snapshot
    if snapshot is None or snapshot.edits is not None or (made := packed(snapshot.body)) is None:
        return write
    return replace(write, snapshot=snapshot._replace(packed=made))


def _pays(packed_bytes: int, document_bytes: int) -> bool:
    return 2 * packed_bytes <= document_bytes


def unpacked(stored: object, size_bytes: object) -> bytes:
    """Return the document that is stored, packed or as it is; `size_bytes` is how large its row says that it is.

    Raises:
        Undecodable: it cannot be unpacked, or is larger.
    """
    if not isinstance(stored, bytes):
        raise Undecodable("a document is no bytes")
    if not stored.startswith(FORMAT):
        return stored
    if not isinstance(size_bytes, int):
        raise Undecodable("nobody knows how large a packed document is")
    # Not a list of pieces: of so many the allocator would keep the memory, for each thread that ever had one.
    with io.BytesIO() as made:
        for piece in _pieces(stored, size_bytes):
            made.write(piece)
        return made.getvalue()


def _pieces(stored: bytes, size_bytes: int) -> Iterator[bytes]:
    stream = zlib.decompressobj()
    left_bytes = size_bytes
    with memoryview(stored) as view:
        for start in range(len(FORMAT), len(view), READ_BYTES):
            if stream.eof:  # what is behind it zlib would keep, and copy anew each time
                raise Undecodable("something is behind it")
            given: bytes | memoryview = view[start : start + READ_BYTES]
            more = True
            while more:
                try:
                    piece = stream.decompress(given, PIECE_BYTES)
                except zlib.error as error:
                    raise Undecodable("it cannot be unpacked") from error
                left_bytes -= len(piece)
                if left_bytes < 0:
                    raise Undecodable("it is larger than its row says")
                yield piece
                given = stream.unconsumed_tail
                more = not stream.eof and bool(given or len(piece) == PIECE_BYTES)
    if not stream.eof or stream.unused_data or left_bytes:
        raise Undecodable("it is cut off, or something is behind it")
