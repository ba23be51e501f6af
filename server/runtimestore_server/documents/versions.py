"""Pages of a session's versions: what is asked for, and their messages."""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from runtimestore.v1 import runtime_store_admin_pb2 as pb
from runtimestore_server.documents.identifiers import bad_field
from runtimestore_server.store.digests import SEAL_BYTES

if TYPE_CHECKING:
    from runtimestore_server.store import RuntimeKey
    from runtimestore_server.store.versions.listing import Listed
    from runtimestore_server.store.versions.rows import Version

_REVISION_BYTES = 8


def page_size(asked: int) -> int:
    """Tell how many versions a page has at most: a hundred where nothing is asked, and never more than a thousand.

    Raises:
        InvalidRequest: it is negative.
    """
    if asked < 0:
        raise bad_field("page_size", "must not be negative")
    return min(asked, 1000) or 100


def begins_behind(runtime: RuntimeKey, token: str) -> int | None:
    """Behind which revision the page of a runtime begins that a token asks for; None for the first one.

    Raises:
        InvalidRequest: no answer about this runtime gave it.
    """
    if not token:
        return None
    revision = int.from_bytes(_bytes_of(token)[:_REVISION_BYTES], "big", signed=True)
    if token != _token(runtime, revision):
        raise bad_field("page_token", "must be the next_page_token of the answer before, about the same runtime")
    return revision


def page(runtime: RuntimeKey, listed: Listed, size: int) -> pb.ListSessionVersionsResponse:
    """Make the answer of up to `size` versions of a runtime; where there is one more, or damage, there is a next page.

    Raises:
        StoredValueCorrupt: damage comes first; its metadata say how to go on past it.
    """
    found, damage = listed
    if damage is not None and not found:
        damage.refusal.metadata["next_page_token"] = _token(runtime, damage.behind)
        raise damage.refusal
    answer = pb.ListSessionVersionsResponse(versions=map(_message, found[:size]))
    if damage is not None or len(found) > size:
        answer.next_page_token = _token(runtime, found[:size][-1].revision)
    return answer


def _token(runtime: RuntimeKey, revision: int) -> str:
    """Return a page token as AIP-158 has it: safe in a URL, no use to read, and of no other runtime.

    The seal keeps mistakes out. It is no secret: a forged token tells its maker no more than a true one.
    """
    number = revision.to_bytes(_REVISION_BYTES, "big", signed=True)  # a damaged one may be negative
    seal = sha256(b"\0".join((b"page/1", runtime.realm.encode(), runtime.runtime_id.encode(), number))).digest()
    return base64.urlsafe_b64encode(number + seal[:SEAL_BYTES]).decode()


def _bytes_of(token: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(token[: (_REVISION_BYTES + SEAL_BYTES) * 4 // 3])
    except (binascii.Error, ValueError):  # ValueError: it is no ASCII
        return b""


def _message(version: Version) -> pb.SessionVersion:
    committed_at = None
    if version.committed_at_ms is not None:
        committed_at = Timestamp()
        committed_at.FromMilliseconds(version.committed_at_ms)
    return pb.SessionVersion(
        revision=version.revision,
        committed_at=committed_at,
        size_bytes=version.size_bytes,
        sha256=version.sha256,
        run_id=version.run_id,
        sequence=version.sequence,
    )
