"""A large session is checked in pieces, and whatever it is, that says what a check of all of it says."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from runtimestore.errors import RuntimeStoreError
from runtimestore_server.documents import growth, session, session_envelope, session_pieces
from runtimestore_server.store.versions.recent import RecentSession
from support.generators.documents import new_id

if TYPE_CHECKING:
    import pytest

    from runtimestore_server.store.values import SessionSnapshot

ROUNDS = 2000
ID = new_id()
TIME = b'{"secs_since_epoch":1,"nanos_since_epoch":2}'
TIMES = b'"created_at":%s,"updated_at":%s' % (TIME, TIME)
SPACES = (b"", b"", b" ", b"\n\t ", b" " * 30)

SOUND = (
    b'{"role":"user"}',
    b'{"role":"user","content":"\xf0\x9f\x99\x82 and more of it"}',
    b'{"role":"user","content":"},{\\"role\\":\\"a\\"}, [ ] \\\\"}',
    b'{ "role" : "assistant" , "n" : [ 1.5e300 , { "role" : "x" } ] }',
    b'{"role":"tool","of":[{"role":"a"},{"role":"b"},{"role":"c"}]}',
    b'{"of":[{"role":"a"},{"of":1}],"role":"tool"}',
    b'{"role":"user","messages":[{"role":"u"},{"role":"v"}]}',
    b'{"role":"user"}],"other":[{"role":"user"}',
    b'{"role":"user"}],"version":1,"other":[{"role":"user"}',
)
"""Messages, some of which hold what may be taken for others, or are the last ones, with others behind them."""

WRONG = (
    b'{"role":"u","role":"u"}',
    b'{"role":1}',
    b"{}",
    b"",
    b",",
    b"7",
    b'[{"role":"u"}]',
    b'{"role":"\\ud800"}',
    b'{"role":"\xff"}',
    b'{"role":"u","n":1e999}',
    b'{"role":"u","deep":' + b"[" * 126 + b"]" * 126 + b"}",
    b'{"role":"u"}],"messages":[{"role":"u"}',
    b'{"role":"u"}],"m\\u0065ssages":[{"role":"u"}',
    b'{"role":"u"}]',
    b"}",
)


def _document(rng: random.Random) -> bytes:
    """A session with its members in any order and with any spaces, and perhaps something wrong among its messages."""
    space = rng.choice(SPACES)
    kinds = SOUND if rng.random() < 0.5 else SOUND[:2]
    messages = [rng.choice(kinds) for _ in range(rng.randrange(1, 12))]
    if rng.random() < 0.2:
        messages[rng.randrange(len(messages))] = rng.choice(WRONG)
    comma = b"," + space
    members = [
        b'"messages":' + space + b"[" + space + comma.join(messages) + space + b"]",
        b'"id":"%s"' % ID.encode(),
        b'"created_at":{"secs_since_epoch":1,"nanos_since_epoch":2}',
        b'"updated_at":{"secs_since_epoch":%d,"nanos_since_epoch":2}' % rng.randrange(9),
    ]
    if rng.random() < 0.3:
        members.append(b'"usage":{"input_tokens":3,"output_tokens":%d}' % rng.randrange(9))
    if rng.random() < 0.4:
        copied = comma.join(messages[:3])
        members.append(rng.choice((b'"metadata":{"messages":[%s]}', b'"other":[{"messages":[%s]}]')) % copied)
    if rng.random() < 0.5:
        rng.shuffle(members)
    body = b"{" + comma.join(members) + b"}"
    if rng.random() < 0.1:
        at = rng.randrange(len(body))
        body = body[:at] + rng.randbytes(rng.randrange(3)) + body[at + rng.randrange(3) :]
    return body


def _told(body: bytes) -> tuple[SessionSnapshot | None, str]:
    try:
        return session.check(body), ""
    except RuntimeStoreError as refusal:
        return None, f"{refusal.reason} {refusal.message} {refusal.violations}"


def test_a_check_in_pieces_says_what_a_check_of_the_whole_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "LEAST_BYTES", 0)
    rng = random.Random(5)  # noqa: S311  (no secret)
    in_pieces = refused = 0
    for _ in range(ROUNDS):
        body = _document(rng)
        monkeypatch.setattr(session_pieces, "LEAST_BYTES", 2**60)
        whole, why = _told(body)
        monkeypatch.setattr(session_pieces, "LEAST_BYTES", 0)
        monkeypatch.setattr(session_pieces, "PIECE_BYTES", rng.randrange(1, 200))
        found, why_not = _told(body)

        assert why_not == why, body
        refused += whole is None
        cut = session_pieces.check(body)
        in_pieces += cut is not None
        if whole is None or found is None:
            assert cut is None, body
            continue
        assert found._replace(checked=None) == whole._replace(checked=None), body
        if whole.checked is not None and found.checked is not None:
            assert found.checked[:3] == whole.checked[:3], body
        if (prefix := found.checked) is not None:
            assert prefix.messages == len(json.loads(body)["messages"])
            assert prefix.digest.digest() == sha256(body[: prefix.ends]).digest()
    assert in_pieces > ROUNDS // 8
    assert refused > ROUNDS // 10


def _large(count: int) -> bytes:
    """A session of so many messages of 1 KB: one of fewer messages is the beginning of one of more."""
    message = b'{"role":"user","content":"%s"}' % (b"x" * 1000)
    return b'{"id":"%s",%s,"messages":[%s]}' % (ID.encode(), TIMES, b",".join([message] * count))


def test_a_large_session_is_cut_into_pieces_of_about_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    body, before = _large(6000), _large(10)
    base = RecentSession(sha256(before).digest(), before, 1, len(before), 0, session.check(before).checked)
    looked_at: list[int] = []

    def read(piece: bytes) -> tuple[session_envelope.Session, str]:
        looked_at.append(len(piece))
        return read_whole(piece)

    read_whole = session_envelope.read_in_range
    for module in (session_pieces, session_envelope):
        monkeypatch.setattr(module, "read_in_range", read)

    for known in (None, base):  # the latter is most of what it is as new
        looked_at.clear()
        assert session.check(body, known).message_count == 6000

        assert len(looked_at) == len(body) // session_pieces.PIECE_BYTES + 2
        assert max(looked_at) < session_pieces.PIECE_BYTES + 5000


class _Searched(bytes):
    """A document that counts how often something is looked for in it."""

    searches = 0

    def find(self, *what: Any) -> int:
        self.searches += 1
        return super().find(*what)


def test_a_session_full_of_what_begins_like_a_message_is_not_searched_to_its_end() -> None:
    """That would take several times as long as to check it."""
    message = b'{"a":0,"role":"user","of":[%s]}' % b",".join([b'[{"a":1}]'] * 200_000)
    body = _Searched(b'{"id":"%s",%s,"messages":[%s]}' % (ID.encode(), TIMES, b",".join([message] * 3)))

    assert session_pieces.check(body) is None
    assert 0 < body.searches <= session_pieces.MOST_PASSED
    assert session.check(body).message_count == 3


def test_a_session_with_much_beside_its_messages_is_checked_at_once() -> None:
    """It would be looked at with every piece."""
    for beside, cut in ((session_pieces.MOST_BESIDE_BYTES // 2, True), (2 * session_pieces.MOST_BESIDE_BYTES, False)):
        body = _large(6000)[:-1] + b',"metadata":{"much":"%s"}}' % (b"x" * beside)
        assert (session_pieces.check(body) is not None) is cut
        assert session.check(body).message_count == 6000
