"""Whatever changes in a session: sent whole or as edits it leaves the same bytes, digests, revisions and versions."""

from __future__ import annotations

import json
import operator
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient
from runtimestore._edits import edits_between
from runtimestore_server.rpc import undecoded_documents
from runtimestore_server.store.tables import session_versions
from runtimestore_server.store.versions import packing
from support.generators.documents import input_state, new_id, receipt, session
from support.generators.forms import EDITS, sending
from support.servers.database import rows

if TYPE_CHECKING:
    import random

    from runtimestore import Commit
    from runtimestore_server.app import Application
    from support.checkers.torture import Trial

MEBIBYTE = 1024 * 1024
ALIKE = "éèêë€₭₮₯😀😁😂🤣"
"""Characters that begin with the same bytes as their neighbours: an edit between two cuts through the middle of one."""
ALPHABET = 'abcdefghij klm\n"\\' + ALIKE
LARGE_BYTES = 1000
WHOLE_RUNTIME, EDITED_RUNTIME = "rt:session:whole", "rt:session:edited"


@pytest.fixture(autouse=True)
def _some_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions outgrow the size from which on they are packed and left in their messages, and come back to less.

    They are random text: they count as worth it where anything is saved.
    """
    monkeypatch.setattr(packing, "LEAST_BYTES", LARGE_BYTES)
    monkeypatch.setattr(undecoded_documents, "LEAST_BYTES", LARGE_BYTES)
    monkeypatch.setattr(packing, "_pays", operator.lt)


class Written(NamedTuple):
    """A session that a revision left."""

    revision: int
    body: bytes
    receipt: Any


def some_text(chance: random.Random, most: int) -> str:
    return "".join(chance.choices(ALPHABET, k=chance.randrange(most)))


def changed(chance: random.Random, messages: list[str]) -> list[str]:
    """The texts of a session's messages after something was done to them."""
    after = list(messages)
    at, end = sorted(chance.choices(range(len(after) + 1), k=2))
    match chance.randrange(9):
        case 0 | 1:  # it grows, as at every turn
            after += [some_text(chance, 400) for _ in range(chance.randrange(1, 4))]
        case 2:  # it is compacted in the middle
            after[at:end] = [some_text(chance, 300)]
        case 3:  # it shrinks
            del after[at:]
        case 4:  # it is swapped for another one
            after = [some_text(chance, 400) for _ in range(chance.randrange(6))]
        case 5:  # its parts change their places
            after = after[at:] + after[:at]
        case 6:  # nothing is left
            after = []
        case 7:  # it stays
            pass
        case _:  # single characters change, each perhaps by one of its bytes
            for place in range(at, end):
                found = [where for where, character in enumerate(after[place]) if character in ALIKE]
                if found:
                    where = chance.choice(found)
                    after[place] = after[place][:where] + chance.choice(ALIKE) + after[place][where + 1 :]
    return after


def body_of(session_id: str, messages: list[str], turn: int) -> bytes:
    """The session as UTF-8, not escaped: characters take several bytes."""
    said = [{"role": "user", "content": text} for text in messages]
    usage = {"input_tokens": turn, "output_tokens": 10 * turn}
    plain = json.loads(session(session_id=session_id, messages=said, usage=usage))
    return json.dumps(plain, ensure_ascii=False).encode()


def cuts_a_character(before: bytes, after: bytes) -> bool:
    """Whether an edit begins within a character."""
    return any(edit.start < len(before) and before[edit.start] & 0xC0 == 0x80 for edit in edits_between(before, after))


class Twins:
    """The same writes to two runtimes: by a client that sends everything, and by one that sends edits."""

    def __init__(self, whole: AsyncRuntimeStoreClient, edited: AsyncRuntimeStoreClient) -> None:
        self._whole, self._edited = whole, edited
        self.written: list[Written] = []

    async def write(self, body: bytes, *, boundary: bool) -> None:
        """Write a session to both, and see that both hold it."""
        proof = receipt() if boundary else None
        given = [input_state()]

        async def by(store: AsyncRuntimeStoreClient, runtime_id: str) -> Commit:
            if proof is None:
                return await store.commit_session_snapshot(runtime_id, body)
            return await store.atomic_apply(runtime_id, body, proof, given)

        commit = await by(self._whole, WHOLE_RUNTIME)
        assert await by(self._edited, EDITED_RUNTIME) == commit
        self.written.append(Written(commit.revision, body, proof))
        for runtime_id in (WHOLE_RUNTIME, EDITED_RUNTIME):
            assert await self._whole.load_session_snapshot_with_revision(runtime_id) == (body, commit.revision)
        assert await self._edited.load_session_snapshot(EDITED_RUNTIME) == body

    async def compare_history(self) -> None:
        """See that both list and hold every version that was ever written."""
        listed = [await self._versions(runtime_id) for runtime_id in (WHOLE_RUNTIME, EDITED_RUNTIME)]
        expected = [
            (one.revision, len(one.body), sha256(one.body).digest(), *_boundary(one.receipt))
            for one in reversed(self.written)
        ]
        assert listed == [expected, expected]
        for one in self.written:
            for runtime_id in (WHOLE_RUNTIME, EDITED_RUNTIME):
                assert await self._whole.load_session_snapshot(runtime_id, as_of_revision=one.revision) == one.body

    async def _versions(self, runtime_id: str) -> list[tuple[Any, ...]]:
        page = await self._whole.list_session_versions(runtime_id, page_size=1000)
        return [(v.revision, v.size_bytes, v.sha256, v.run_id, v.sequence) for v in page.versions]


def _boundary(proof: Any) -> tuple[str | None, int | None]:
    return (None, None) if proof is None else (proof.run_id, proof.sequence)


class SentForms(grpc.aio.UnaryUnaryClientInterceptor):
    """Notes in which form each session was sent."""

    def __init__(self) -> None:
        self.found: list[str] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        if "session_delta" in request.DESCRIPTOR.fields_by_name:
            self.found.append(request.session_delta.WhichOneof("delta"))
        return await continuation(details, request)


async def test_any_changes_of_a_session_leave_the_same_in_either_form(
    app: Application, realm: str, trial: Trial
) -> None:
    chance, session_id, cut, forms = trial.random, new_id(), 0, SentForms()
    with sending(EDITS) as known_bytes:
        async with (
            AsyncRuntimeStoreClient(app.address, realm=realm, known_bytes=0) as whole,
            grpc.aio.insecure_channel(app.address, interceptors=[forms]) as channel,
            AsyncRuntimeStoreClient(channel=channel, realm=realm, known_bytes=known_bytes) as edited,
        ):
            twins, messages, before = Twins(whole, edited), ["begin " + ALIKE], b""
            for turn in range(trial.rounds(short=40, long=600)):
                body = body_of(session_id, messages, turn)
                await twins.write(body, boundary=chance.random() < 0.5)
                cut += cuts_a_character(before, body)
                messages, before = changed(chance, messages), body
            await twins.compare_history()
    first, *others = forms.found
    assert (first, {*others}) == ("session_snapshot", {"snapshot_edits"})
    assert len(others) == len(twins.written) - 1
    bodies = [row["body"] for row in await rows(app, session_versions, realm=realm) if row["kind"] == "base"]
    packed = sum(body.startswith(packing.FORMAT) for body in bodies)
    assert 0 < packed < len(bodies)
    trial.record(versions=len(twins.written), cuts_through_characters=cut, bases=len(bodies), packed=packed)


async def test_changes_of_a_large_session_leave_the_same_in_either_form(
    app: Application, realm: str, trial: Trial
) -> None:
    chance, session_id = trial.random, new_id()
    text = chance.randbytes(trial.rounds(short=2, long=15) * MEBIBYTE // 4).hex()
    large = [text[:1_000_000] + "é", text[1_000_000:], "€" * 1000, text[::-1]]
    compacted = [large[0][:-1] + "è", "a summary", *large[2:], "😀"]
    async with (
        AsyncRuntimeStoreClient(app.address, realm=realm, known_bytes=0) as whole,
        AsyncRuntimeStoreClient(app.address, realm=realm) as edited,
    ):
        twins = Twins(whole, edited)
        steps = [large, [*large, "more"], compacted, [], large]
        for turn, messages in enumerate(steps):
            await twins.write(body_of(session_id, messages, turn), boundary=turn % 2 == 0)
        await twins.compare_history()
