"""Lists what an engine answers the store: what an error means, what became of a COMMIT, how much there is."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol


class Fault(enum.Enum):
    """What an engine's error means for the store."""

    TRANSIENT = "run the transaction again"
    LOCKED = "another session holds a row for longer than is waited for"
    UNAVAILABLE = "the engine cannot be reached"
    FULL = "the medium is full"
    READ_ONLY = "the engine takes no writes"
    FORBIDDEN = "the engine's role lacks a right"
    REPLACED = "what is open is not what the settings name any more"
    CORRUPT = "the engine's own file is damaged"
    OTHER = "a defect, or a value that the engine refuses"


class EngineRefusal(Exception):
    """What an engine of ours refuses, or was told by what stands around it, beside the errors of the driver."""

    words = "{}"
    """What is wrong, and the cure, around what is told of the one case."""

    def sentence(self) -> str:
        """Say what is wrong, and the cure, for the operator's eyes."""
        return self.words.format(self)


class ChangedMeanwhile(Exception):
    """What was read as one moment was not: somebody wrote past the locks."""


class KeyNotFree(Exception):
    """There is a row under a key that an insert needs: the transaction is not committed."""


class RowTaken(KeyNotFree):
    """Another transaction inserted the row meanwhile, which could not be locked before: run again, and see it."""


class CommitState(enum.Enum):
    """What became of a transaction whose COMMIT was not answered."""

    COMMITTED = enum.auto()
    NOT_COMMITTED = enum.auto()
    IN_PROGRESS = enum.auto()
    RECORD_DECIDES = enum.auto()
    """It is over and the engine cannot tell: it was committed if, and only if, what it wrote is there."""
    UNKNOWN = enum.auto()


class Progress(Protocol):
    """Who wants to see how far something long is."""

    def begin(self, step: str, total: int) -> None:
        """Begin a step, such as "copying"; `total` is in whatever `advance` counts, 0 where nobody knows."""

    def advance(self, done: int) -> None:
        """Take note that so much of the step is done in all."""


class Began(NamedTuple):
    """What is known of a transaction since it began."""

    token: str | None
    """What identifies it to `commit_state` after the connection was lost; None where the engine has nothing such."""
    now_ms: int
    """When it began, in milliseconds since the epoch by the database's clock: one for all servers on it."""


class Lacking(NamedTuple):
    """A right that the engine's role does not have."""

    right: str
    table: str
    """A table, or the schema that it is in."""


class TableSize(NamedTuple):
    """About how much a table holds."""

    rows: int
    bytes: int


class Sizes(NamedTuple):
    """How much a store takes, as far as the engine knows it without looking at every row."""

    bytes: int | None
    tables: dict[str, TableSize]
    free_bytes: int | None = None
    """What is free where the store lies, if that is this machine's."""
