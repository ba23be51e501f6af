"""Checks a large session in pieces, none of which holds the interpreter for long.

A session whose list of messages is cut between two of them is one exactly if each piece is one, in the place of the
whole list: nothing is asked across messages but their number. Where the list begins, and where one of its messages
does, is guessed by how they are written. A wrong guess cuts what is no session; then all of it is checked at once, as
what is wrong with a session is, for only that knows the places.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from runtimestore.errors import SessionSnapshotInvalid
from runtimestore_server.documents import session_readback
from runtimestore_server.documents.growth import end_of_last
from runtimestore_server.documents.session_envelope import read_in_range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimestore_server.documents.growth import Remainder
    from runtimestore_server.documents.session_envelope import Session

LEAST_BYTES = 4 * 1024 * 1024
"""Smaller sessions hold it for some milliseconds."""

PIECE_BYTES = 1024 * 1024
"""How large a piece is, about; one message may be larger."""

MOST_BESIDE_BYTES = 1024 * 1024
"""How much may stand before the messages and behind them: it is looked at with every piece."""

_OPENING = re.compile(rb'"messages"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*')
_MARK = re.compile(rb'\{[ \t\r\n]*"[a-z_]+"[ \t\r\n]*:')
"""How a message begins: the next ones are looked for by what the first one begins with."""

_MOST_WHITESPACE = 16
"""So much may stand between two messages where they are cut."""

MOST_PASSED = 4096
"""So many times what begins like a message may be none, before it is given up to cut: looking takes longer than all."""


class Checked(NamedTuple):
    """A session that was found sound, or the rest of one."""

    session: Session
    """Its envelope; of the messages it has the last ones."""
    session_id: str
    opened: int
    """Where the list of messages is open."""
    ends: int
    """Where the last message ends."""
    messages: int
    """How many messages were checked."""


def check(body: bytes, rest: Remainder | None = None) -> Checked | None:
    """Check a session in pieces, or the `rest` of one; None where it cannot be cut, or is found wanting."""
    if rest is not None:
        opened, start = rest.left_out.opened, rest.start
    elif opening := _OPENING.search(body, 0, MOST_BESIDE_BYTES):
        opened, start = body.index(b"[", opening.start()) + 1, opening.end()
    else:
        return None
    if (mark := _MARK.match(body, start)) is None:
        return None
    pieces = [*_pieces(body, start, mark.group())]
    last = pieces.pop().start
    if not pieces or opened + len(body) - last > 2 * (PIECE_BYTES + MOST_BESIDE_BYTES):
        return None
    try:
        return _check(body, body[:opened], pieces, last)
    except SessionSnapshotInvalid:
        return None


def _pieces(body: bytes, start: int, mark: bytes) -> Iterator[slice]:
    """Yield where the pieces stand, without the commas between them; the last one goes to the document's end."""
    at, passed = start + PIECE_BYTES, 0
    while passed < MOST_PASSED and (at := body.find(mark, at)) >= 0:
        before = body[at - _MOST_WHITESPACE : at].rstrip(b" \t\r\n")
        if before.endswith(b","):
            yield slice(start, at - _MOST_WHITESPACE + len(before) - 1)
            start, at = at, at + PIECE_BYTES
        else:
            at, passed = at + 1, passed + 1
    yield slice(start, len(body))


def _check(body: bytes, head: bytes, pieces: list[slice], last: int) -> Checked | None:
    """Check each piece between what stands before the messages and behind them.

    What was guessed to be the list is it where it alone decides how many messages there are, and each piece is all of
    the list that it stands for.
    """
    opened, end = len(head), head + body[last:]
    session, session_id = read_in_range(end)
    count = len(session.messages)
    messages = session_readback.check(end, count)
    closed = opened - 2 + len(messages)
    tail = end[closed:]
    if opened + len(tail) > MOST_BESIDE_BYTES:
        return None
    if not count or end[opened - 1 : closed + 1] != messages or read_in_range(head + tail)[0].messages:
        return None
    for piece in pieces:
        document = head + body[piece] + tail
        found = len(read_in_range(document)[0].messages)  # one at least, for it begins like one
        if len(session_readback.check(document, found)) != len("[]") + piece.stop - piece.start:
            return None  # the list ends within: what is behind it belongs to another one
        count += found
    return Checked(session, session_id, opened, last - 1 + end_of_last(messages), count)
