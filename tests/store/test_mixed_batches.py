"""Batches of every kind of write, held against a small model: what is decided of each, and what is stored then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from runtimestore.errors import Fenced, OAuthFlowSnapshotChanged, RevisionMismatch
from runtimestore_server.store import tables
from runtimestore_server.store.values import Outcome, RuntimeKey
from runtimestore_server.store.writes import Acquisition, OAuthFlowWrite, Write
from support.generators.store_writes import commit, oauth, rows

if TYPE_CHECKING:
    from random import Random

    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.requests import Decision
    from runtimestore_server.store.writes import AnyWrite
    from support.checkers.torture import Trial

REALMS = ("one", "two")
RUNTIMES = [RuntimeKey(realm, f"rt:{number}") for realm in REALMS for number in range(3)]
STATES = ("idle", "running", "stopped")
LARGEST_BATCH = 8


@dataclass
class Model:
    """What a store must hold, and answer."""

    revisions: dict[RuntimeKey, int] = field(default_factory=dict)
    states: dict[RuntimeKey, str | None] = field(default_factory=dict)
    fences: dict[RuntimeKey, tuple[int, str]] = field(default_factory=dict)
    oauth: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: dict[tuple[str, str], int] = field(default_factory=dict)

    def fence(self, runtime: RuntimeKey) -> int:
        """The newest fence of a runtime; 0 if nobody ever acquired it."""
        return self.fences.get(runtime, (0, ""))[0]

    def decide(self, batch: list[AnyWrite]) -> list[object]:
        """Do a batch; what each write is told. Acquisitions come last: nobody holds a fence before it is answered."""
        order = sorted(range(len(batch)), key=lambda position: isinstance(batch[position], Acquisition))
        told = {position: self._one(batch[position]) for position in order}
        return [told[position] for position in range(len(batch))]

    def _one(self, write: AnyWrite) -> object:
        if isinstance(write, Acquisition):
            newest, owner = self.fences.get(write.runtime, (0, None))
            self.fences[write.runtime] = (newest + 1, write.owner)
            return Outcome(newest + 1, previous_owner=owner)
        request = (write.realm, write.request_id or "")
        if request in self.requests:
            return Outcome(self.requests[request], replayed=True)
        told = self._swapped(write) if isinstance(write, OAuthFlowWrite) else self._written(write)
        if isinstance(told, Outcome) and write.request_id:
            self.requests[request] = told.revision
        return told

    def _swapped(self, write: OAuthFlowWrite) -> object:
        version = self.oauth.get(write.realm, (0, b""))[0]
        if write.expected_version not in (None, version):
            return OAuthFlowSnapshotChanged, str(version)
        self.oauth[write.realm] = (version + 1, write.snapshot_json)
        return Outcome(version + 1)

    def _written(self, write: AnyWrite) -> object:
        assert isinstance(write, Write)
        if write.fence not in (None, self.fence(write.runtime)):
            return Fenced, str(self.fence(write.runtime))
        revision = self.revisions.get(write.runtime, 0)
        if write.if_revision not in (None, revision):
            return RevisionMismatch, str(revision)
        self.revisions[write.runtime] = revision + 1
        self.states[write.runtime] = write.runtime_state
        return Outcome(revision + 1)


CURRENT = {
    Fenced: "current_fence",
    RevisionMismatch: "current_revision",
    OAuthFlowSnapshotChanged: "current_version",
}


def _told(decision: Decision) -> object:
    """A decision as the model puts it: a refusal is its class and what it names as current."""
    if isinstance(decision, Outcome):
        return decision
    assert isinstance(decision, tuple(CURRENT)), decision
    return type(decision), decision.metadata[CURRENT[type(decision)]]


def _stored(database: Database) -> Model:
    def of(table: Any, *names: str) -> dict[Any, Any]:
        return {
            RuntimeKey(row["realm"], row["runtime_id"]): tuple(map(row.get, names)) for row in rows(database, table)
        }

    runtimes = of(tables.runtimes, "revision", "runtime_state")
    return Model(
        {key: revision for key, (revision, _) in runtimes.items()},
        {key: state for key, (_, state) in runtimes.items()},
        of(tables.fences, "fence", "owner"),
        {row["realm"]: (row["version"], row["snapshot_json"]) for row in rows(database, tables.oauth_flow_snapshots)},
        {(row["realm"], row["request_id"]): row["revision"] for row in rows(database, tables.requests)},
    )


class _Writes:
    """Writes at random: with the fence that is the newest, with an older one, with one of nobody's, with none."""

    def __init__(self, random: Random, model: Model) -> None:
        self._random = random
        self._model = model
        self._sent: list[Write | OAuthFlowWrite] = []

    def batch(self) -> list[AnyWrite]:
        """As much as may come while the batch before is committed."""
        return [self._any() for _ in range(self._random.randint(1, LARGEST_BATCH))]

    def _any(self) -> AnyWrite:
        choice = self._random.random()
        if choice < 0.2:
            return Acquisition(self._random.choice(RUNTIMES), self._random.choice(("here", "there")))
        if choice < 0.3 and self._sent:
            return self._again(self._random.choice(self._sent))
        request_id = str(UUID(int=self._random.getrandbits(128))) if self._random.random() < 0.7 else None
        write = self._oauth(request_id) if choice < 0.45 else self._write(request_id)
        if request_id:
            self._sent.append(write)
        return write

    def _again(self, write: Write | OAuthFlowWrite) -> AnyWrite:
        # Under the same id; a fence is not part of what makes a request the same.
        return replace(write, fence=self._fence(write.runtime)) if isinstance(write, Write) else write

    def _oauth(self, request_id: str | None) -> OAuthFlowWrite:
        realm = self._random.choice(REALMS)
        version = self._model.oauth.get(realm, (0, b""))[0]
        body = b"%d" % self._random.getrandbits(64)
        expected = self._random.choice((None, version, version + 1))
        return oauth(body, realm=realm, request_id=request_id, expected_version=expected)

    def _write(self, request_id: str | None) -> Write:
        runtime = self._random.choice(RUNTIMES)
        revision = self._model.revisions.get(runtime, 0)
        return Write(
            runtime,
            request_id,
            if_revision=self._random.choice((None, None, None, revision, revision + 1)),
            fence=self._fence(runtime),
            runtime_state=self._random.choice(STATES),
        )

    def _fence(self, runtime: RuntimeKey) -> int | None:
        newest = self._model.fence(runtime)
        fences = (newest, newest, newest - 1, newest + 1)
        return self._random.choice((None, None, *(fence for fence in fences if fence > 0)))


def test_every_write_of_a_mixed_batch_is_decided_and_stored_as_if_it_had_come_alone(
    database: Database, trial: Trial
) -> None:
    batches = trial.rounds(short=100, long=1000)
    model = Model()
    writes = _Writes(trial.random, model)
    decisions = fenced = 0
    for number in range(batches):
        batch = writes.batch()
        expected = model.decide(batch)

        told = [_told(decision) for decision in commit(database, *batch)]

        assert told == expected, (number, batch)
        assert _stored(database) == model, (number, batch)
        decisions += len(told)
        fenced += sum(isinstance(answer, tuple) and answer[0] is Fenced for answer in told)
    trial.record(batches=batches, decisions=decisions, fenced=fenced)
    assert fenced
