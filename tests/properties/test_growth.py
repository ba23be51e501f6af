"""A session that grew is checked where it grew, and whatever it is, that says what a check of all of it says."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from runtimestore._edits import common_prefix
from runtimestore.errors import RuntimeStoreError
from runtimestore_server.documents import growth, session, session_pieces
from runtimestore_server.store.versions.recent import RecentSession
from support.generators.documents import new_id

if TYPE_CHECKING:
    import pytest

    from runtimestore_server.store.values import SessionSnapshot

ROUNDS = 800
SPACES = (b"", b" ", b"\n\t ", b"  ")

# What may come behind the messages that are known, between them, or instead of them.
TAILS = (
    b"",
    b',{"role":"user"}',
    b',{"role":"user","content":"\xf0\x9f\x99\x82"},{"role":"a"}',
    b',{"role":"u","role":"u"}',
    b',{"role":1}',
    b",",
    b",,",
    b',{"role":"u"},',
    b',[{"role":"u"}]',
    b',"text"',
    b"}",
    b"]",
    b'],"messages":[{"role":"u"}',
    b'],"m\\u0065ssages":[{"role":"u"}',
    b',{"role":"\\ud800"}',
    b',{"role":"u","n":1e999}',
    b',{"role":"u","deep":' + b"[" * 126 + b"]" * 126 + b"}",
    b',{"role":"\xff"}',
    b' , {"role" : "user" } ',
    b"x",
    b'{"role":"u"}',
)

MANY = (
    b"".join(b',{"role":"user","n":%d}' % number for number in range(6)),
    b' ,\n{"role":"user"} , {"role":"assistant","content":"\xf0\x9f\x99\x82"},{"role":"user"}',
    b',{"role":"user","of":[{"role":"a"},{"role":"b"}]}, {"role":"user"} ,{"role":"tool","n":[1,{"role":"c"}]}',
    b',{"role":"user"},{"role":"user"},{"role":"user","role":"u"},{"role":"user"}',
    b',{"role":"user"},{"role":"user"}],"other":[{"role":"user"},{"role":"user"}',
)
"""Of which some are cut between two of them."""


def _document(shape: int, updated: int, messages: list[Any], tail: bytes) -> bytes:
    """A session with its members in any order and with any spaces: the same of each shape."""
    rng = random.Random(shape)  # noqa: S311  (no secret)
    space = rng.choice(SPACES)
    known = (b"," + space).join(json.dumps(message).encode() for message in messages)
    members = [
        b'"messages":' + space + b"[" + space + known + tail + space + b"]",
        b'"id":"%s"' % ID.encode(),
        b'"created_at":{"secs_since_epoch":1,"nanos_since_epoch":2}',
        b'"updated_at":{"secs_since_epoch":%d,"nanos_since_epoch":2}' % updated,
    ]
    if rng.random() < 0.3:
        members.append(b'"usage":{"input_tokens":3,"output_tokens":%d}' % rng.randrange(9))
    if rng.random() < 0.2:
        members.append(b'"metadata":{"copy":%s}' % json.dumps(messages[:1]).encode())
    first, *others = members
    return b"{" + (b"," + space).join([first, *others] if rng.random() < 0.7 else [*others, first]) + b"}"


ID = new_id()


def _told(body: bytes, base: RecentSession | None, untouched_bytes: int = 0) -> tuple[SessionSnapshot | None, str]:
    """What a check says of a document; with a base it is made in pieces, as of a large one."""
    session_pieces.LEAST_BYTES = 2**60 if base is None else 0
    try:
        return session.check(body, base, untouched_bytes=untouched_bytes)._replace(checked=None), ""
    except RuntimeStoreError as refusal:
        return None, f"{refusal.reason} {refusal.message} {refusal.violations}"


def test_a_check_of_what_grew_says_what_a_check_of_the_whole_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "LEAST_BYTES", 0)
    monkeypatch.setattr(session_pieces, "LEAST_BYTES", 0)
    rng = random.Random(3)  # noqa: S311  (no secret)
    messages: list[Any] = [{"role": "user", "content": "beginning"}]
    base: RecentSession | None = None
    shape = shortened = in_pieces = sound = 0
    for _ in range(ROUNDS):
        if base is None or rng.random() < 0.1:
            messages, shape = messages[:1], rng.randrange(1000)
            body = _document(shape, 0, messages, b"")
            checked = session.check(body).checked
            base = RecentSession(sha256(body).digest(), body, 1, len(body), 0, checked)
        after = _document(shape, rng.randrange(9), messages, rng.choice(TAILS if rng.random() < 0.5 else MANY))
        if rng.random() < 0.2:
            at = rng.randrange(len(after))
            after = after[:at] + rng.randbytes(rng.randrange(3)) + after[at + rng.randrange(3) :]

        monkeypatch.setattr(session_pieces, "PIECE_BYTES", rng.randrange(1, 30))
        rest = growth.remainder(after, base)
        shortened += rest is not None
        in_pieces += rest is not None and session_pieces.check(after, rest) is not None
        whole = _told(after, None)
        assert _told(after, base) == whole, after
        assert _told(after, base, common_prefix(base.body, 0, after, 0)) == whole, after

        found, _ = _told(after, base)
        if found is None:
            continue
        sound += 1
        assert found.sha256 == sha256(after).digest()
        first, grown = session.check(after).checked, session.check(after, base).checked
        assert (first is None) or (grown is not None)
        if first is not None and grown is not None:
            assert grown[:3] == first[:3]
            assert grown.digest.digest() == first.digest.digest() == sha256(after[: first.ends]).digest()
        base = RecentSession(found.sha256, after, 1, len(after), 0, grown)
        messages = json.loads(after)["messages"]
    assert shortened > ROUNDS // 12
    assert in_pieces > ROUNDS // 40
    assert sound > ROUNDS // 12
