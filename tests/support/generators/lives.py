"""The life of a runtime as a fixed sequence of writes, so that a look into the database shows what is missing.

Turn n of a life is always the same write, and it is the n-th: the revision tells how many of them landed, and with
that what every table has to hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from runtimestore import RuntimeState
from runtimestore_server.store import tables
from runtimestore_server.store.digests import sealed_receipt
from runtimestore_server.store.values import InputDocument, OpsDocument, ReceiptDocument, RuntimeKey, SessionSnapshot
from runtimestore_server.store.versions.chains import load_session
from runtimestore_server.store.writes import Write
from support.generators.calls import id_of
from support.generators.documents import input_state, ops, receipt, session

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from runtimestore import AsyncRuntimeStoreClient, Commit, InputState

STATES = tuple(RuntimeState)


class Stored(NamedTuple):
    """What is stored of a runtime, in all tables."""

    revision: int = 0
    state: str | None = None
    session: bytes | None = None
    total_tokens: int | None = None
    inputs: frozenset[tuple[str, bytes]] = frozenset()
    run_ids: frozenset[str] = frozenset()
    ops: bytes | None = None
    requests: frozenset[tuple[str, int]] = frozenset()


class Finding(NamedTuple):
    """What a look into the database found of a life."""

    turns: int
    lost: int = 0
    """How many turns are missing of those that must be there."""
    strange: int = 0
    """How many are there beyond those that may be."""
    halves: int = 0
    """1 if some table has less, more or other than what so many turns leave."""


@dataclass(frozen=True)
class Life:
    """A runtime and its writes, which count from 1."""

    runtime_id: str
    identified: bool = True
    """Whether the writes bear request ids."""
    padding_bytes: int = 0
    """How much the session's one message weighs beyond its text."""

    def request_id(self, turn: int) -> str:
        """The id of a turn's request, empty if it has none."""
        return id_of(self._text(turn, "request")) if self.identified else ""

    async def send(self, store: AsyncRuntimeStoreClient, turn: int, **options: Any) -> Commit:
        """Write a turn through a client."""
        options["request_id"] = self.request_id(turn)
        match turn % 4:
            case 0:
                return await store.persist_ops_lifecycle(self.runtime_id, self._ops(turn), **options)
            case 2:
                return await store.commit_machine_lifecycle(
                    self.runtime_id, _state(turn), self._inputs(turn)[:1], **options
                )
            case _:
                return await store.atomic_apply(
                    self.runtime_id, self._session(turn), receipt(self._run_id(turn)), self._inputs(turn), **options
                )

    def write(self, realm: str, turn: int) -> Write:
        """A turn as the store takes it in."""
        runtime, request_id = RuntimeKey(realm, self.runtime_id), self.request_id(turn) or None
        match turn % 4:
            case 0:
                body = self._ops(turn).encode()
                return Write(runtime, request_id, ops=OpsDocument(id_of(self.runtime_id), body, _digest(body)))
            case 2:
                return Write(runtime, request_id, runtime_state=_state(turn).value, inputs=self._documents(turn)[:1])
            case _:
                body, proof = self._session(turn), self._text(turn, "receipt").encode()
                return Write(
                    runtime,
                    request_id,
                    snapshot=SessionSnapshot(id_of(self.runtime_id), body, _digest(body), 1, 2, 1, turn),
                    receipt=ReceiptDocument(self._run_id(turn), 0, proof, _digest(proof)),
                    inputs=self._documents(turn),
                )

    def stored_after(self, turns: int) -> Stored:
        """What has to be there when that many turns have landed."""
        boundaries = [turn for turn in range(1, turns + 1) if turn % 2]
        lifecycles = [turn for turn in range(1, turns + 1) if turn % 4 == 2]
        others = [turn for turn in range(1, turns + 1) if turn % 4 == 0]
        inputs: dict[str, bytes] = {}
        for turn in sorted((*boundaries[-1:], *lifecycles[-1:])):
            inputs |= {state.input_id: state.state_json.encode() for state in self._written_inputs(turn)}
        return Stored(
            revision=turns,
            state=_state(lifecycles[-1]).value if lifecycles else None,
            session=self._session(boundaries[-1]) if boundaries else None,
            total_tokens=boundaries[-1] if boundaries else None,
            inputs=frozenset(inputs.items()),
            run_ids=frozenset(self._run_id(turn) for turn in boundaries),
            ops=self._ops(others[-1]).encode() if others else None,
            requests=frozenset((self.request_id(turn), turn) for turn in range(1, turns + 1) if self.identified),
        )

    def stored(self, connection: Connection, realm: str, *, turns: int) -> Stored:
        """What is there, and sound; of requests, those of the first `turns` turns and of the two after them."""
        ids = [self.request_id(turn) for turn in range(1, turns + 3)]

        def rows(table: sa.Table) -> list[Any]:
            own = sa.and_(table.c.realm == realm, table.c.runtime_id == self.runtime_id)
            return list(connection.execute(sa.select(table).where(own)))

        def sound(digest: bytes, value: bytes) -> bytes:
            assert _digest(value) == digest, f"a document of {self.runtime_id} is damaged"
            return value

        (runtime,) = rows(tables.runtimes) or [None]
        _, session = load_session(connection, RuntimeKey(realm, self.runtime_id))
        (projection,) = rows(tables.sessions) or [None]
        (operations,) = rows(tables.ops_snapshots) or [None]
        remembered = sa.select(tables.requests).where(
            tables.requests.c.realm == realm, tables.requests.c.request_id.in_(ids)
        )
        receipts = rows(tables.receipts)
        assert all(row.sha256 == sealed_receipt(_digest(row.receipt), row.committed_revision) for row in receipts)
        return Stored(
            revision=runtime.revision if runtime else 0,
            state=runtime.runtime_state if runtime else None,
            session=session.body if session else None,
            total_tokens=projection.total_tokens if projection else None,
            inputs=frozenset((row.input_id, sound(row.sha256, row.state_json)) for row in rows(tables.inputs)),
            run_ids=frozenset(row.run_id for row in receipts),
            ops=sound(operations.sha256, operations.snapshot_json) if operations else None,
            requests=frozenset((row.request_id, row.revision) for row in connection.execute(remembered)),
        )

    def look(self, connection: Connection, realm: str, *, at_least: int, at_most: int) -> Finding:
        """How many turns landed, and what is wrong with that."""
        found = self.stored(connection, realm, turns=at_most)
        return Finding(
            found.revision,
            lost=max(0, at_least - found.revision),
            strange=max(0, found.revision - at_most),
            halves=int(found != self.stored_after(found.revision)),
        )

    def landed(self, connection: Connection, realm: str, *, at_least: int, at_most: int) -> int:
        """How many turns landed; each of them whole, and nothing of another."""
        found = self.look(connection, realm, at_least=at_least, at_most=at_most)
        assert found == Finding(found.turns), f"{self.runtime_id}, {at_least} to {at_most}: {found}"
        return found.turns

    def _text(self, turn: int, what: str) -> str:
        return f"{self.runtime_id} {turn} {what}"

    def _run_id(self, turn: int) -> str:
        return id_of(self._text(turn, "run"))

    def _session(self, turn: int) -> bytes:
        return session(
            self._text(turn, "session") + "x" * self.padding_bytes,
            session_id=id_of(self.runtime_id),
            usage={"input_tokens": turn, "output_tokens": 0},
        )

    def _ops(self, turn: int) -> str:
        return ops(self._text(turn, "ops"), epoch_id=id_of(self.runtime_id))

    def _inputs(self, turn: int) -> list[InputState]:
        return [input_state(self._text(turn, "input"), input_id=id_of(f"{self.runtime_id} {which}")) for which in "ab"]

    def _written_inputs(self, turn: int) -> list[InputState]:
        return self._inputs(turn) if turn % 2 else self._inputs(turn)[:1]

    def _documents(self, turn: int) -> tuple[InputDocument, ...]:
        bodies = [(state.input_id, state.state_json.encode()) for state in self._inputs(turn)]
        return tuple(InputDocument(input_id, body, _digest(body)) for input_id, body in bodies)


def _state(turn: int) -> RuntimeState:
    return STATES[turn // 4 % len(STATES)]


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()
