"""Defines what one kind of write adds to a commit: the protocol, and how the driver holds the writes of a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from runtimestore_server.store.writes import AnyWrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from runtimestore.errors import RuntimeStoreError
    from runtimestore_server.store.engines import Database
    from runtimestore_server.store.engines.direct import Answer
    from runtimestore_server.store.fences import Fences
    from runtimestore_server.store.requests import Decision, RequestMemory
    from runtimestore_server.store.values import Outcome

    Begin = Callable[["Transaction", Sequence[AnyWrite]], "Part[Any] | None"]
    """Begins a transaction's part for one kind; None where a batch has no write of it."""

W = TypeVar("W", bound=AnyWrite)
W_contra = TypeVar("W_contra", bound=AnyWrite, contravariant=True)


class Transaction(NamedTuple):
    """What the kinds of writes that are committed together share."""

    database: Database
    tx: Connection
    now_ms: Callable[[], int]
    skip_held: bool
    """Whether rows that another session holds are passed over instead of waited for."""
    fences: Fences
    """The fences of this batch's runtimes, locked before anything else."""


class Lock(NamedTuple):
    """The outcome of locking the rows of some writes."""

    held: set[object]
    """The subjects of those whose rows another session holds."""
    made: bool = False
    """Whether rows had to be made to be locked: what was asked before that was not asked under their lock."""


class Kind(Protocol[W_contra]):
    """What one kind of write adds to a commit. An instance lives for one run of one transaction.

    The driver calls the methods in the order in which they stand here, `refusal` and `land` for each write. Nothing may
    be decided by anything outside the transaction, so that it can be run again.
    """

    def lock(self, writes: Sequence[W_contra]) -> Answer[Lock]:
        """Lock, in key order, the rows that decide about these writes."""

    def ask(self, writes: Sequence[W_contra]) -> None:
        """Query, under the locks, what else decides about these writes; replaces what was queried before."""

    def refusal(self, write: W_contra) -> RuntimeStoreError | None:
        """Say why this write may not land, if so: after those that landed before it in this batch."""

    def land(self, write: W_contra) -> Outcome:
        """Accept a write, so that those behind it in the batch see its effect."""

    def write_down(self) -> None:
        """Put what landed into the tables: one statement a table, rows in key order."""

    def confirm(self) -> None:
        """Check, once all statements were sent, that every row was inserted.

        Raises:
            RowTaken: another transaction inserted a row that was not there to be locked; run again.
        """


class Part(Generic[W]):
    """The writes of one kind in a batch, each with its position."""

    def __init__(self, kind: Kind[W], writes: list[tuple[int, W]]) -> None:
        self._kind = kind
        self._writes = writes

    def lock(self, held: set[object]) -> Answer[Lock]:
        """Lock the rows of those whose subjects are not held by another session; which of them turn out to be."""
        return self._kind.lock([write for _, write in self._writes if write.subject not in held])

    def ask(self, held: set[object]) -> None:
        """Ask what else decides about all but those that are held."""
        self._kind.ask([write for _, write in self._writes if write.subject not in held])

    def confirm(self) -> None:
        """See that every row went in."""
        self._kind.confirm()

    def decide(self, memory: RequestMemory, held: set[object]) -> Iterator[tuple[int, Decision]]:
        """Decide about all but those that are held, one after the other, and write down what lands."""
        mine = [(position, write) for position, write in self._writes if write.subject not in held]
        kind = self._kind
        for position, write in mine:
            decision: Decision | None = memory.recall(write) or kind.refusal(write)
            if decision is None:
                decision = kind.land(write)
                memory.remember(write, decision.revision)
            yield position, decision
        kind.write_down()


def registered(values: type[W], kind: Callable[[Transaction], Kind[W]]) -> Begin:
    """Return a line of the registry: the class of a kind's writes, and what it adds to a commit."""

    def begin(transaction: Transaction, batch: Sequence[AnyWrite]) -> Part[W] | None:
        mine = [(position, write) for position, write in enumerate(batch) if isinstance(write, values)]
        return Part(kind(transaction), mine) if mine else None

    return begin
