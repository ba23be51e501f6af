"""Pages of a session's versions: what is asked for, and their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from runtimestore.v1 import runtime_store_admin_pb2 as pb
from runtimestore_server.documents.identifiers import bad_field
from runtimestore_server.integers import INT64_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimestore_server.store.versions.rows import Version

DEFAULT_PAGE_SIZE = 100
MOST_PAGE_SIZE = 1000


def page_size(asked: int) -> int:
    """How many versions a page has at most.

    Raises:
        InvalidRequest: it is negative.
    """
    if asked < 0:
        raise bad_field("page_size", "must not be negative")
    return min(asked, MOST_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def before_revision(token: str) -> int:
    """Where the page begins that a token asks for.

    Raises:
        InvalidRequest: no answer gave it.
    """
    if not token:
        return INT64_MAX
    is_number = token.isascii() and token.isdecimal() and len(token) <= len(str(INT64_MAX))
    if not is_number or int(token) > INT64_MAX:
        raise bad_field("page_token", "must be the next_page_token of the answer before")
    return int(token)


def page(found: Sequence[Version], size: int) -> pb.ListSessionVersionsResponse:
    """Make the answer of up to `size` versions; where one more was found there is a next page."""
    answer = pb.ListSessionVersionsResponse(versions=map(_message, found[:size]))
    if len(found) > size:
        answer.next_page_token = str(found[size - 1].revision)
    return answer


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
