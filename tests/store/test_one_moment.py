"""Whatever is committed between the statements of a load, its answer is that of one moment."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from runtimestore.errors import RevisionNotKept
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore_server.documents import input as inputs
from runtimestore_server.documents import ops, receipt, recovery, session
from runtimestore_server.store import reads
from runtimestore_server.store.values import InputDocument, OpsDocument
from runtimestore_server.store.versions.chains import StoredSession
from runtimestore_server.store.versions.folding import Folding
from runtimestore_server.store.versions.listing import list_versions
from runtimestore_server.store.versions.pruning import Pruning
from runtimestore_server.store.versions.recent import RecentSession, RecentSessions
from runtimestore_server.store.writes import Write
from support.generators import documents
from support.generators.edits import SESSION, grown
from support.generators.store_writes import REALM, boundary, commit, oauth, runtime
from support.generators.versions import folded, made_of, write_all
from support.servers.engines import DURABLE
from support.servers.listening import listening

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.values import RuntimeKey

    Load = Callable[[Connection, RuntimeKey, Database], Any]
    Step = Callable[[Database, RuntimeKey], None]

pytestmark = pytest.mark.needs(DURABLE)

BODIES = [grown(1), grown(2, "grown" * 100)]
FIRST = sha256(BODIES[0]).digest()
RUN, INPUT, LATE = documents.new_id(), documents.new_id(), 2**40

LOADS: dict[str, Load] = {
    "a session": lambda tx, key, _: session.load(tx, key),
    "a known session": lambda tx, key, _: session.load(tx, key, known_sha256=FIRST),
    "a session as of the first revision": lambda tx, key, _: session.load(tx, key, as_of_revision=1),
    "a session as of a late revision": lambda tx, key, _: session.load(tx, key, as_of_revision=LATE),
    "a known session as of a revision": lambda tx, key, _: session.load(
        tx, key, as_of_revision=LATE, known_sha256=FIRST
    ),
    "versions": lambda tx, key, _: list_versions(tx, key, most=10),
    "a runtime": recovery.load,
    "a runtime but its known session": lambda tx, key, database: recovery.load(tx, key, database, known_sha256=FIRST),
    "inputs": lambda tx, key, _: inputs.load_all(tx, key, skip_corrupt=False),
    "inputs but corrupt ones": lambda tx, key, _: inputs.load_all(tx, key, skip_corrupt=True),
    "an input": lambda tx, key, _: inputs.load(tx, key, INPUT),
    "a receipt": lambda tx, key, _: reads.load_boundary_receipt(tx, key, RUN, 0),
    "a state": lambda tx, key, _: reads.load_runtime_state(tx, key),
    "ops": lambda tx, key, _: ops.load(tx, key),
    "an oauth snapshot": lambda tx, *_: reads.load_oauth_flow_snapshot(tx, REALM),
}


def _everything(database: Database, key: RuntimeKey, turn: int) -> None:
    """All that a write can carry, each part as the turn has it."""
    seed: dict[str, Any] = {"last_run_id": RUN, "last_boundary_sequence": 0, "phase": "applied"}
    state = documents.input_state(f"input of {turn}", input_id=INPUT, **seed).state_json.encode()
    registry = documents.ops(f"ops of {turn}", epoch_id=SESSION).encode()
    said = pb.RunBoundaryReceipt(run_id=RUN, boundary=pb.RUN_APPLY_BOUNDARY_RUN_START, sequence=turn)
    proof = receipt.check(said)
    whole = Write(
        key,
        snapshot=made_of(BODIES[turn - 1] if turn else None, BODIES[turn])._replace(session_id=SESSION),
        receipt=proof,
        inputs=(InputDocument(INPUT, state, sha256(state).digest()),),
        runtime_state="running" if turn else "idle",
        ops=OpsDocument(SESSION, registry, sha256(registry).digest()),
    )
    commit(database, whole, oauth(b"flow of %d" % turn))


def _nothing(database: Database, key: RuntimeKey) -> None:
    """A runtime that was never written."""


def _a_boundary(database: Database, key: RuntimeKey) -> None:
    commit(database, Write(key, receipt=boundary()))


def _first(database: Database, key: RuntimeKey) -> None:
    _everything(database, key, 0)


def _second(database: Database, key: RuntimeKey) -> None:
    _everything(database, key, 1)


def _both(database: Database, key: RuntimeKey) -> None:
    _first(database, key)
    _second(database, key)


def _fold(database: Database, key: RuntimeKey) -> None:
    folded(database, key)


def _both_and_a_fold(database: Database, key: RuntimeKey) -> None:
    _both(database, key)
    _fold(database, key)


def _prune(database: Database, _: RuntimeKey) -> None:
    pruning = Pruning(lambda _tx: 2**60, Folding(database, RecentSessions(0)))
    with database.writers.begin() as tx:
        assert pruning.sweep(tx, 100) > 0


STEPS: dict[str, tuple[Step, Step]] = {
    "the first write": (_nothing, _first),
    "the first session": (_a_boundary, _first),
    "the second session": (_first, _second),
    "a fold": (_both, _fold),
    "a prune": (_both_and_a_fold, _prune),
}


def _told(answer: Any) -> Any:
    """The same without what does not matter: how a session is stored, and whether its bytes came along."""
    if isinstance(answer, StoredSession):
        return answer[: StoredSession._fields.index("body")]
    return tuple(_told(part) for part in answer) if isinstance(answer, tuple) else answer


def _answer(database: Database, load: Load, key: RuntimeKey) -> Any:
    with database.readers.connect() as tx:
        try:
            return _told(load(tx, key, database))
        except RevisionNotKept as refusal:
            return refusal.metadata


def _after(
    database: Database, place: int, happen: Callable[[], object]
) -> tuple[contextlib.AbstractContextManager[None], list[bool]]:
    """Something that happens inside, once readers have sent so many statements; and whether it did at each of them."""
    sent: list[bool] = []

    def count(*_: Any) -> None:
        sent.append(False)
        if len(sent) == place:
            happen()
            sent[-1] = True

    return listening(database.readers, after_cursor_execute=count), sent


@pytest.mark.parametrize("load", LOADS)
def test_what_is_committed_between_the_statements_of_a_load_is_seen_whole_or_not_at_all(
    database: Database, load: str
) -> None:
    for step, (prepare, happen) in STEPS.items():
        place, happened = 0, True
        while happened:
            place += 1
            key = runtime()
            commit(database, oauth(b"flow of nobody"))
            prepare(database, key)
            before = _answer(database, LOADS[load], key)
            inside, sent = _after(database, place, partial(happen, database, key))
            with inside:
                found = _answer(database, LOADS[load], key)
            happened = any(sent)
            after = _answer(database, LOADS[load], key)

            assert found in (before, after), step
        assert place > 1


def test_a_version_that_is_pruned_while_its_base_is_made_is_no_failure(database: Database) -> None:
    for place in range(1, 9):
        key = runtime()
        write_all(database, key, [b"a" * 100, b"a" * 100 + b"b" * 300, b"c" * 100])
        folding = Folding(database, RecentSessions(0))
        second = sha256(b"a" * 100 + b"b" * 300).digest()
        folding.add(key, RecentSession(second, b"", 2, 100, 300))

        def prune(key: RuntimeKey = key) -> None:
            folded(database, key)
            _prune(database, key)

        inside, _ = _after(database, place, prune)
        with inside:
            folding.prepare()
