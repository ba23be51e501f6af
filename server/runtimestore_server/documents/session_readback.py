"""Refuses a session document with a sound envelope that upstream's Rust types could not deserialise.

Asked of the members that the runtimes' types name: is one given twice, is there half of a surrogate pair, a number
beyond a double, too deep a nesting? All else passes.
"""

from __future__ import annotations

import msgspec

from runtimestore.errors import SessionSnapshotInvalid
from runtimestore_server.documents import readback
from runtimestore_server.documents.json import OTHER_REPLACEMENT, invalid, shallow, without_halves
from runtimestore_server.documents.session_envelope import FIELD, Session, Timestamp, Unsigned, bad_member
from runtimestore_server.integers import UINT64_MAX

USAGE = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
"""What the runtimes' type names in the usage; the latter two may be absent or null, and are not listed."""
_HALF = "must hold no half of a surrogate pair: no runtime could read it back"
BATCH_BYTES = 64 * 1024
"""How much of the messages is asked about at once."""


class _CacheTokens(msgspec.Struct):
    cache_creation_tokens: Unsigned | None
    cache_read_tokens: Unsigned | None


_cache_decoder = msgspec.json.Decoder(_CacheTokens)
_messages_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_tokens_decoder = msgspec.json.Decoder(Unsigned | None)
_readable = readback.Remembered()
"""Messages that were found readable: a session grows by a few at each turn, and all of it is sent again."""


def check(body: bytes, count: int) -> memoryview:
    """Refuse what no runtime could read back of the members that its types name; all else passes.

    Returns the list of messages, where it stands in the document unless that is nested deep: then it is a copy.
    """
    try:
        return _checked(body, count)
    except RecursionError:  # what the types name is not nested so deep that it is cut: that is refused
        return _checked(shallow(body), count)


def _checked(body: bytes, count: int) -> memoryview:
    try:
        members = readback.members(body)
    except msgspec.DecodeError:  # for half of a surrogate pair: another one in its place shows where it is
        body, other = without_halves(body), without_halves(body, OTHER_REPLACEMENT)
        members = readback.members(body)
        _check_halves(members, readback.members(other))
    if name := readback.given_twice(members, Session.__struct_fields__):
        raise bad_member(name, "must be given once")
    parts = dict(members)
    _check_parts(parts, count)
    return memoryview(parts["messages"])


def _check_parts(parts: dict[str, msgspec.Raw], count: int) -> None:
    if "version" in parts:
        _check_sign(parts["version"], "version")
    for name in ("created_at", "updated_at"):
        if _is_of_two_plain_numbers(parts[name]):
            continue
        members = readback.members(parts[name])
        _check_members(members, Timestamp.__struct_fields__, name)
        if len(members) > len(Timestamp.__struct_fields__):
            raise bad_member(name, "must have no members but secs_since_epoch and nanos_since_epoch")
    if "usage" in parts and not _is_plain_usage(parts["usage"]):
        members = readback.members(parts["usage"])
        _check_members(members, USAGE, "usage")
        _check_cache_tokens(dict(members))
    _check_messages(parts["messages"], count)
    if "metadata" in parts:
        metadata = bytes(parts["metadata"])
        if readback.may_have_large_number(metadata) or readback.may_be_deep(metadata, level=2):
            _check_value(metadata, "metadata", level=2)


def _is_of_two_plain_numbers(object_: msgspec.Raw) -> bool:
    """Tell whether an object in which two numbers were found has no other members, and no sign: nearly always so."""
    text = bytes(object_)
    return text.count(b'"') == 2 * 2 and b"-" not in text


def _is_plain_usage(usage: msgspec.Raw) -> bool:
    """Tell whether the usage, in which two numbers were found, has no other members but the other two of its own."""
    if _is_of_two_plain_numbers(usage):
        return True
    text = bytes(usage)
    if text.count(b'"') != 4 * 2 or b"-" in text:
        return False
    try:
        found = _cache_decoder.decode(text)
    except msgspec.DecodeError:
        return False
    return max(found.cache_creation_tokens or 0, found.cache_read_tokens or 0) <= UINT64_MAX


def _check_members(members: list[tuple[str, msgspec.Raw]], names: tuple[str, ...], of: str) -> None:
    """Check an object of the envelope whose members are unsigned numbers."""
    if twice := readback.given_twice(members, names):
        raise bad_member(f"{of}.{twice}", "must be given once")
    for name, value in members:
        if name in names:
            _check_sign(value, f"{of}.{name}")


def _check_sign(number: msgspec.Raw, name: str) -> None:
    """Refuse -0, which msgspec takes for 0 and serde_json for a float."""
    if bytes(number) == b"-0":
        raise bad_member(name, "must be an unsigned integer, not -0")


def _check_cache_tokens(usage: dict[str, msgspec.Raw]) -> None:
    for name in USAGE:
        try:
            tokens = _tokens_decoder.decode(usage.get(name, b"null"))
        except msgspec.DecodeError:
            tokens = UINT64_MAX + 1
        if tokens is not None and tokens > UINT64_MAX:
            raise bad_member(f"usage.{name}", f"must be an unsigned integer of at most {UINT64_MAX}")


def _check_messages(messages: msgspec.Raw, count: int) -> None:
    """Check the messages that are not remembered."""
    remembered = count <= _readable.most  # more of them would only drive out one another, and those of other sessions
    if not remembered and not _may_be_unreadable(memoryview(messages), count):
        return
    batch: list[tuple[int, bytes]] = []
    size_bytes = 0
    for position, message in enumerate(map(bytes, _messages_decoder.decode(messages))):
        if remembered and _readable.knows(message):
            continue
        batch.append((position, message))
        size_bytes += len(message)
        if size_bytes >= BATCH_BYTES:
            _check_batch(batch, remembered=remembered)
            batch, size_bytes = [], 0
    if batch:
        _check_batch(batch, remembered=remembered)


def _may_be_unreadable(messages: memoryview, count: int) -> bool:
    return (
        readback.may_have_twice(messages, b"role", count)
        or readback.may_have_large_number(messages)
        or readback.may_be_deep(messages, level=2, besides=count)
    )


def _check_batch(batch: list[tuple[int, bytes]], *, remembered: bool) -> None:
    """Check several messages, first all at once: one at a time, small messages would cost the most."""
    together = b",".join([message for _, message in batch])
    twice_a_role = readback.may_have_twice(together, b"role", len(batch))
    large = readback.may_have_large_number(together)
    for position, message in batch:
        if twice_a_role and readback.given_twice(readback.members(message), ("role",)):
            raise bad_member(f"messages[{position}].role", "must be given once")
        if (large and readback.may_have_large_number(message)) or readback.may_be_deep(message, level=3):
            _check_value(message, f"messages[{position}]", level=3)
        if remembered:
            _readable.add(message)


def _check_value(value: bytes, name: str, *, level: int) -> None:
    if why := readback.unreadable(value, level):
        raise bad_member(name, why)


def _check_halves(found: list[tuple[str, msgspec.Raw]], others: list[tuple[str, msgspec.Raw]]) -> None:
    """Refuse half of a surrogate pair in what the types read: `others` holds another character in its place.

    They read the names of members too, also of those that they skip.
    """
    if _names(found) != _names(others):
        raise invalid(SessionSnapshotInvalid, FIELD, f"a member's name {_HALF}")
    ours, theirs = dict(found), dict(others)
    messages = zip(*map(_messages_decoder.decode, (ours["messages"], theirs["messages"])), strict=True)
    for position, (one, another) in enumerate(messages):
        if bytes(one) != bytes(another):
            raise bad_member(f"messages[{position}]", _HALF)
    if "metadata" in ours and bytes(ours["metadata"]) != bytes(theirs["metadata"]):
        raise bad_member("metadata", _HALF)
    if "usage" in ours and _names(readback.members(ours["usage"])) != _names(readback.members(theirs["usage"])):
        raise bad_member("usage", f"a member's name {_HALF}")


def _names(members: list[tuple[str, msgspec.Raw]]) -> list[str]:
    return [name for name, _ in members]
