"""The digests that are stored, and the seals in which any damage of a row shows."""

from __future__ import annotations

from hashlib import sha256

SHA256_BYTES = 32
SEAL_BYTES = 16
"""What is kept of the digest that seals a row, so that any damage to the row shows."""


def seal(tag: bytes, *fields: object) -> bytes:
    """Return the seal over values of a row: of the digest of the framed fields, behind what kind of row it is."""
    framed = [tag]
    for field in fields:
        if field is None:
            framed.append(b"0-:")
        else:
            value = field if isinstance(field, bytes) else str(field).encode("utf-8", "replace")
            framed.append(b"%d+:%b" % (len(value), value))
    return sha256(b"".join(framed)).digest()[:SEAL_BYTES]


def sealed_receipt(digest: bytes, committed_revision: int) -> bytes:
    """Return the stored form of a receipt's digest: behind it a seal over the revision that it was committed with."""
    return digest + seal(b"receipt/1", digest, committed_revision)


def sealed_flow(digest: bytes, version: int) -> bytes:
    """Return the stored form of an OAuth flow snapshot's digest: behind it a seal over its version."""
    return digest + seal(b"oauth/1", digest, version)


def digest_in(stored: object) -> object:
    """Return the digest in its stored form; an older version stored it without a seal."""
    return stored[:SHA256_BYTES] if isinstance(stored, bytes) else stored
