"""What a client remembers saves bytes and changes nothing: every outcome is as if everything had been sent."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import uuid
from hashlib import sha256
from pathlib import Path

import pytest

from runtimestore import (
    AsyncRuntimeStoreClient,
    InputState,
    RequestIdReused,
    RevisionMismatch,
    RunBoundaryReceipt,
    SessionKeyMismatch,
)
from runtimestore._known import KnownRuntimes
from support.checkers.threaded import either_client
from support.faults.reply_proxy import ReplyProxy
from support.generators import documents
from support.generators.documents import new_id, spellings
from support.servers.command import run
from support.servers.server import in_process

RUNTIME = "rt:session:one"


def session(text: str) -> bytes:
    """The runtime's one session, with a text of its own."""
    return documents.session(text, session_id="01960c7e-5a3b-7000-8000-00000000000a")


def _input(input_id: uuid.UUID, text: str) -> InputState:
    return InputState(input_id, json.dumps({"input_id": str(input_id), "current_state": "queued", "text": text}))


def _receipt(sequence: int) -> RunBoundaryReceipt:
    return RunBoundaryReceipt(uuid.uuid4(), "run_start", [], 1, sequence)


def _changed(chance: random.Random, text: str) -> str:
    """A session's text as a turn leaves it: grown, rewritten in the middle, shrunk, swapped, or the same."""
    at, end = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
    new = "".join(chance.choices("abcdefgh ä€😀", k=chance.randint(1, 2000)))
    return chance.choice((text + new, text[:at] + new + text[end:], text[:at], text[at:] + text[:at], text, new))


def test_the_digest_of_a_session_is_that_of_all_of_it_though_only_what_changed_is_hashed() -> None:
    chance, known, before, text, resumed = random.Random(9), KnownRuntimes(10**6), None, "x" * 5000, 0  # noqa: S311  (repeatable)
    for _ in range(300):
        text = _changed(chance, text)[-20_000:]
        described = known.described(text.encode(), before)
        assert described is not None
        assert (described.body, described.sha256) == (text.encode(), sha256(text.encode()).digest())
        assert described.agreed.digest() == sha256(text.encode()[: described.agreed_bytes]).digest()
        resumed += before is not None and 0 < before.agreed_bytes <= described.agreed_bytes
        before = described
    assert resumed > 50


def test_what_is_remembered_of_inputs_counts_as_what_it_is_now() -> None:
    ids = [uuid.uuid4() for _ in range(3)]
    known, revision = KnownRuntimes(50_000), 0
    for turn in range(100):  # each fits; what was there before is not held
        inputs = [_input(input_id, "x" * (10_000 if (turn + at) % 3 else 10)) for at, input_id in enumerate(ids)]
        revision += 2 if turn % 10 == 9 else 1  # somebody else wrote between
        known.committed(RUNTIME, revision, since=0, inputs=[*inputs, inputs[0]])
        assert known.changed_inputs(RUNTIME, inputs) is not None
    large = [_input(input_id, "x" * 20_000) for input_id in ids]
    known.committed(RUNTIME, revision + 1, since=0, inputs=large)
    assert known.changed_inputs(RUNTIME, large) is None


@pytest.mark.parametrize("form", range(len(spellings(new_id()))))
def test_an_input_is_known_however_its_id_is_spelt(form: int) -> None:
    known, input_id = KnownRuntimes(50_000), uuid.uuid4()
    spelt = spellings(str(input_id))[form]
    first, last = _input(input_id, "first"), InputState(spelt, _input(input_id, "last").state_json)
    other = _input(uuid.uuid4(), "other")
    known.committed(RUNTIME, 1, since=0, inputs=[first, other])
    known.committed(RUNTIME, 2, since=1, inputs=[last])

    changed = known.changed_inputs(RUNTIME, [first, other])
    assert changed is not None
    assert changed.changed == [first]  # the store has the last one


def test_runtimes_without_anything_to_remember_are_bounded_too() -> None:
    known = KnownRuntimes(50_000)
    for number in range(1000):
        known.committed(f"rt:{number}", 1, since=0)
    assert sum(known.revision(f"rt:{number}") for number in range(1000)) <= 100


def test_what_other_threads_push_out_while_it_is_added_harms_nobody() -> None:
    known, failed = KnownRuntimes(20_000), []
    input_id = uuid.uuid4()
    before = sys.getswitchinterval()

    def drive(thread: int) -> None:
        try:
            for number in range(100):
                known.committed(f"rt:{thread}:{number}", 1, since=0, inputs=[_input(input_id, "x" * 6_000)])
        except KeyError as error:
            failed.append(error)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(16)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert failed == []


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_turns_of_a_client_that_remembers_leave_what_one_leaves_that_sends_everything(kind: str) -> None:
    chance = random.Random(5)  # noqa: S311  (repeatable)
    ids = [uuid.UUID(int=chance.getrandbits(128)) for _ in range(30)]
    async with (
        in_process("memory:") as app,
        either_client(kind, app.address) as store,
        either_client("aio", app.address, known_bytes=0) as other,
    ):
        text, inputs = "x" * 5000, dict.fromkeys(ids, "new")
        for turn in range(60):
            text = _changed(chance, text)
            inputs[chance.choice(ids)] = str(turn)
            everything = [_input(input_id, said) for input_id, said in sorted(inputs.items())]
            commit = await store.atomic_apply(RUNTIME, session(text), _receipt(0), everything)
            if chance.random() < 0.3:  # somebody else writes between, and the client does not know
                stranger = chance.choice(ids)
                await other.persist_input_state(RUNTIME, _input(stranger, "a stranger's"))
                await other.commit_session_snapshot(RUNTIME, session("a stranger's"))
                commit = await store.atomic_apply(RUNTIME, session(text), _receipt(0), everything)
            elif chance.random() < 0.3:
                commit = await store.commit_machine_lifecycle(RUNTIME, "idle", everything)
            assert await other.load_session_snapshot(RUNTIME) == session(text)
            loaded = await other.load_input_states_with_revision(RUNTIME)
            assert loaded.value == everything
            assert loaded.revision == commit.revision
            assert await store.load_session_snapshot(RUNTIME) == session(text)


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_an_expected_revision_of_the_callers_own_decides_as_if_everything_had_been_sent(kind: str) -> None:
    inputs = [_input(uuid.uuid4(), str(number)) for number in range(5)]
    async with (
        in_process("memory:") as app,
        either_client(kind, app.address) as store,
        either_client("aio", app.address) as other,
    ):
        first = await store.atomic_apply(RUNTIME, session("1"), _receipt(0), inputs)
        assert (await store.atomic_apply(RUNTIME, session("2"), _receipt(0), inputs, if_revision=first.revision))[
            0
        ] == 2
        await other.commit_session_snapshot(RUNTIME, session("3"))
        with pytest.raises(RevisionMismatch) as refused:
            await store.atomic_apply(RUNTIME, session("4"), _receipt(0), inputs, if_revision=2)
        assert refused.value.current_revision == 3
        with pytest.raises(RevisionMismatch):
            await store.atomic_apply(RUNTIME, session("4"), _receipt(0), inputs, if_revision=1)
        assert (await store.atomic_apply(RUNTIME, session("4"), _receipt(0), inputs, if_revision=3)).revision == 4
        assert await other.load_session_snapshot(RUNTIME) == session("4")


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_the_key_of_another_session_is_told_first_as_if_everything_had_been_sent(kind: str) -> None:
    receipt = _receipt(0)
    async with (
        in_process("memory:") as app,
        either_client(kind, app.address) as store,
        either_client("aio", app.address) as other,
    ):
        await store.atomic_apply(RUNTIME, session("a" * 3000), receipt)
        await other.commit_session_snapshot(RUNTIME, session("c"))  # what the edits are made of is not there any more
        with pytest.raises(SessionKeyMismatch):
            await store.atomic_apply(RUNTIME, session("a" * 3000 + "b"), receipt, session_store_key=uuid.uuid4())


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_a_write_is_repeated_by_its_request_id_in_either_form(kind: str) -> None:
    inputs = [_input(uuid.uuid4(), str(number)) for number in range(5)]
    request_id, receipt = uuid.uuid4(), _receipt(0)
    async with (
        in_process("memory:") as app,
        either_client(kind, app.address) as store,
        either_client("aio", app.address, known_bytes=0) as elsewhere,
    ):
        await store.atomic_apply(RUNTIME, session("a" * 3000), _receipt(0), inputs)
        inputs[0] = _input(uuid.UUID(inputs[0].input_id), "changed")
        said = (RUNTIME, session("a" * 3000 + "b"), receipt, inputs)
        assert await store.atomic_apply(*said, request_id=request_id) == (2, False)  # what changed
        assert await elsewhere.atomic_apply(*said, request_id=request_id) == (2, True)  # everything
        assert await store.atomic_apply(*said, request_id=request_id) == (2, True)
        with pytest.raises(RequestIdReused):
            await store.atomic_apply(*said[:3], inputs[:-1], request_id=request_id)


@pytest.mark.parametrize("first", ["load", "write"])
@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_a_client_notices_by_itself_that_its_store_was_restored_from_a_backup(kind: str, first: str) -> None:
    inputs = [_input(uuid.uuid4(), str(number)) for number in range(6)]
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        file, backup = Path(folder) / "store.db", Path(folder) / "backup"
        address, url = f"unix:{folder}/socket", f"sqlite:///{file}"
        async with either_client(kind, address) as store:
            async with in_process(url, listen=address):
                await store.atomic_apply(RUNTIME, session("1"), _receipt(0), inputs[:3])
            assert run("backup", "--database-url", url, str(backup), cwd=Path(folder)).returncode == 0
            async with in_process(url, listen=address):
                for text in ("2", "3", "4"):
                    await store.atomic_apply(RUNTIME, session(text), _receipt(0), inputs)
            assert run("restore", "--database-url", url, "--replace", str(backup), cwd=Path(folder)).returncode == 0
            async with in_process(url, listen=address) as app:
                if first == "load":
                    assert await store.load_session_snapshot(RUNTIME) == session("1")
                # Its revision comes to be what the client knew, with other inputs.
                for number in range(3):
                    await store.persist_input_state(RUNTIME, inputs[number])
                assert (await store.commit_machine_lifecycle(RUNTIME, "idle", inputs)).revision == 5
                async with either_client("aio", app.address, known_bytes=0) as other:
                    loaded = await other.load_input_states(RUNTIME)
                assert loaded == sorted(inputs, key=lambda state: state.input_id)


async def test_turns_whose_answers_are_lost_are_done_once() -> None:
    chance = random.Random(3)  # noqa: S311  (repeatable)
    inputs = [_input(uuid.uuid4(), str(number)) for number in range(20)]
    text = "x" * 3000
    async with in_process("memory:") as app, ReplyProxy(app.address, loss=0.3, chance=chance) as proxy:
        async with AsyncRuntimeStoreClient(proxy.address) as store:
            for turn in range(30):
                text += f"turn {turn}"
                inputs[turn % 20] = _input(uuid.UUID(inputs[turn % 20].input_id), f"turn {turn}")
                assert (await store.atomic_apply(RUNTIME, session(text), _receipt(0), inputs)).revision == turn + 1
            assert await store.load_session_snapshot(RUNTIME) == session(text)
        async with AsyncRuntimeStoreClient(app.address, known_bytes=0) as other:
            assert sorted(await other.load_input_states(RUNTIME), key=str) == sorted(inputs, key=str)
        assert proxy.lost > 5
