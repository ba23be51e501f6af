"""Remembers, per call, the size of its message and the document that was left undecoded in it.

To ask the decoded message for its length is to encode it once more. Of 60 MB that takes some 80 ms, in which no other
call comes on: protobuf keeps the interpreter to itself.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtimestore_server.rpc.undecoded_documents import UndecodedDocument

_bytes: ContextVar[int] = ContextVar("received_bytes", default=0)
_document: ContextVar[Callable[[], bytes] | None] = ContextVar("received_document", default=None)


def note_received(size_bytes: int, document: UndecodedDocument | None) -> None:
    """Keep the length of the message of this task's call, and what was left in it until that is asked for."""
    _bytes.set(size_bytes)
    if document is not None:
        _document.set(document.take)


def received_bytes() -> int:
    """Tell how long the message of this task's call was; of a call with several, the last one."""
    return _bytes.get()


def received_document() -> Callable[[], bytes] | None:
    """Tell how to take what was left in the message of this call, if anything; once, so that nothing else keeps it."""
    if (document := _document.get()) is not None:
        _document.set(None)
    return document
