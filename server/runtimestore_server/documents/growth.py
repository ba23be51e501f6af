"""Skips what was checked before: a session mostly grows at its end, so only its new messages are checked.

Where a document begins as the one before it did, up to the end of that one's last message, those messages can be left
out: what remains is a session exactly if the whole is one, and nothing is asked across messages but their number.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from runtimestore_server.store.values import CheckedPrefix

if TYPE_CHECKING:
    from runtimestore_server.store.versions.recent import RecentSession

LEAST_BYTES = 4 * 1024
"""Smaller documents are checked whole: that takes no longer."""

_WHITESPACE = b" \t\r\n"


class Remainder(NamedTuple):
    """What is left to be checked of a document without the messages that were checked before."""

    left_out: CheckedPrefix
    start: int
    """Where it goes on in the document: at its next message, or at the end of its list."""

    def document(self, body: bytes) -> bytes:
        """Make a document of what is left."""
        return b"".join((body[: self.left_out.opened], memoryview(body)[self.start :]))

    def end_of_last(self, messages: memoryview) -> int:
        """Return where, in the whole document, the last message of the remainder ends."""
        return self.start - 1 + end_of_last(messages)


def agreed_bytes(body: bytes, base: RecentSession, untouched_bytes: int = 0) -> int:
    """Return how many leading bytes a document shares for certain with its predecessor, up to a message's end; or 0.

    Of a document that was made of that one, so many bytes at the beginning are known to be untouched.
    """
    ends = base.checked.ends if base.checked else 0
    if ends <= untouched_bytes:
        return ends
    return ends if body.startswith(memoryview(base.body)[:ends]) else 0  # compared where it lies, not copied


def remainder(body: bytes, base: RecentSession, untouched_bytes: int = 0) -> Remainder | None:
    """Return what is left to be checked of a document; None if that is all of it. Arguments as of `agreed_bytes`."""
    known = base.checked
    if known is None or len(body) <= known.ends or not agreed_bytes(body, base, untouched_bytes):
        return None
    at = _after_whitespace(body, known.ends)
    if body[at : at + 1] == b",":
        at = _after_whitespace(body, at + 1)
        if body[at : at + 1] != b"{":  # a comma must be followed by a message: without it the rest might pass
            return None
    elif body[at : at + 1] != b"]":
        return None
    return Remainder(known, at)


def longer_prefix(body: bytes, rest: Remainder, ends: int, count: int) -> CheckedPrefix:
    """Return the checked prefix of a document whose remainder is sound: `count` messages, the last ends at `ends`."""
    ends = ends if count else rest.left_out.ends
    digest = rest.left_out.digest.copy()
    digest.update(memoryview(body)[rest.left_out.ends : ends])
    return CheckedPrefix(rest.left_out.opened, ends, rest.left_out.messages + count, digest)


def first_prefix(body: bytes, messages: memoryview, count: int) -> CheckedPrefix | None:
    """Return the checked prefix of a document that was checked whole; None where it would not pay, or is uncertain."""
    if len(body) < LEAST_BYTES or not count:
        return None
    anchor = bytes(messages[:64])  # to look for all of it would cost more than to read it
    at = body.find(anchor)
    if at < 0 or not body.startswith(messages, at):
        return None
    last = len(body) - len(messages)  # where it can begin once more, at the latest
    if body.find(anchor, at + 1, last + len(anchor)) >= 0 and body.find(messages, at + 1) >= 0:
        return None
    ends = at + end_of_last(messages)
    return CheckedPrefix(at + 1, ends, count, sha256(memoryview(body)[:ends]))


def digest_of(body: bytes, prefix: CheckedPrefix) -> bytes:
    """Return the SHA-256 of a document that has this prefix."""
    digest = prefix.digest.copy()
    digest.update(memoryview(body)[prefix.ends :])
    return digest.digest()


def end_of_last(messages: memoryview) -> int:
    """Tell where in the list its last message ends."""
    end = len(messages) - 1
    while messages[end - 1] in _WHITESPACE:
        end -= 1
    return end


def _after_whitespace(body: bytes, at: int) -> int:
    while at < len(body) and body[at] in _WHITESPACE:
        at += 1
    return at
