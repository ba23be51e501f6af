"""Defines what the clients take and give: plain frozen values, compared by their content."""

from __future__ import annotations

import enum
import json
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from runtimestore import _arguments as arguments

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from runtimestore._arguments import Document, Identifier

__all__ = [
    "Acquisition",
    "Commit",
    "CommitCounters",
    "CorruptInput",
    "InputState",
    "InputStateSeed",
    "Limits",
    "Loaded",
    "LoadedRuntime",
    "OAuthCommit",
    "OAuthFlowSnapshot",
    "ReadableInputStates",
    "RunApplyBoundary",
    "RunBoundaryReceipt",
    "RuntimeState",
    "ServerInfo",
    "SessionVersion",
    "SessionVersions",
]

T = TypeVar("T")


class RuntimeState(enum.Enum):
    """The state of a runtime. Any may follow any other: the runtime decides, the store remembers."""

    INITIALIZING = "initializing"
    IDLE = "idle"
    ATTACHED = "attached"
    RUNNING = "running"
    RETIRED = "retired"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


class RunApplyBoundary(enum.Enum):
    """Where in a run a primitive was applied."""

    IMMEDIATE = "immediate"
    RUN_START = "run_start"
    RUN_CHECKPOINT = "run_checkpoint"


@dataclass(frozen=True, slots=True)
class RunBoundaryReceipt:
    """The proof that a primitive was applied at a boundary of a run; its key is (runtime, `run_id`, `sequence`).

    `run_id` and `contributing_input_ids` are UUIDs, as such or in any textual form; loaded, they are in lower case with
    hyphens, the contributing ids in the order given. `boundary` is taken by its name too, such as `"run_start"`.
    `message_count` and `sequence` are unsigned 64-bit numbers. `committed_revision` is set on what was loaded: with it
    as `as_of_revision` the session of the boundary is loaded. It is ignored in writes and left out of comparisons.

    Raises:
        TypeError: an argument, which is named, is of another type.
        ValueError: a number is out of range, or there is no such boundary.
    """

    run_id: str
    boundary: RunApplyBoundary
    contributing_input_ids: tuple[str, ...]
    message_count: int
    sequence: int
    conversation_digest: str | None = None
    committed_revision: int | None = field(default=None, compare=False)

    def __init__(
        self,
        run_id: Identifier,
        boundary: RunApplyBoundary | str,
        contributing_input_ids: Iterable[Identifier],
        message_count: int,
        sequence: int,
        conversation_digest: str | None = None,
        committed_revision: int | None = None,
    ) -> None:
        put = partial(object.__setattr__, self)  # the one way past frozen
        put("run_id", arguments.identifier("run_id", run_id))
        put("boundary", arguments.member("boundary", RunApplyBoundary, boundary))
        put("contributing_input_ids", arguments.identifiers("contributing_input_ids", contributing_input_ids))
        put("message_count", arguments.whole_number("message_count", message_count))
        put("sequence", arguments.whole_number("sequence", sequence))
        put("conversation_digest", arguments.optional_text("conversation_digest", conversation_digest))
        put("committed_revision", arguments.optional_number("committed_revision", committed_revision))


@dataclass(frozen=True, slots=True)
class InputStateSeed:
    """What a person wants to see of an input's document; `None` is what the document lacks. The server fills it in."""

    phase: str
    last_run_id: str | None = None
    last_boundary_sequence: int | None = None
    attempt_count: int | None = None


@dataclass(frozen=True, slots=True)
class InputState:
    """One input's state: its UUID and the runtime's JSON document, kept byte for byte.

    The document is given as text, as bytes of UTF-8, or as a dict, which is written as compact JSON in its own order.
    `seed` is set on what was loaded, ignored in writes and left out of comparisons.
    """

    input_id: str
    state_json: str
    seed: InputStateSeed | None = field(default=None, compare=False)

    def __init__(self, input_id: Identifier, state_json: Document, seed: InputStateSeed | None = None) -> None:
        put = partial(object.__setattr__, self)  # the one way past frozen
        put("input_id", arguments.identifier("input_id", input_id))
        put("state_json", arguments.document_text("state_json", state_json))
        put("seed", seed)

    @classmethod
    def from_json(cls, document: Document) -> InputState:
        """Return the state of a document, with the id that stands in it, spelt as the store spells ids.

        Raises:
            ValueError: the document is no JSON object with a text `input_id`.
            TypeError: it is no document at all.
        """
        text = arguments.document_text("document", document)
        try:
            value = json.loads(text, parse_int=float)  # Python's own makes no number of thousands of digits
        except json.JSONDecodeError as error:
            raise ValueError(f"document is no JSON: {error}") from error
        except RecursionError:
            raise ValueError(
                "document is nested too deep for its input_id to be found: give the id too, to InputState itself"
            ) from None
        input_id = value.get("input_id") if isinstance(value, dict) else None
        if not isinstance(input_id, str):
            # A ValueError, as for text that is no JSON at all: the caller has one thing to handle.
            raise ValueError("document must be a JSON object with a text `input_id`")  # noqa: TRY004  (a bad value of the right type)
        return cls(_as_stored(input_id), text)


def _as_stored(text: str) -> str:
    """Return a UUID in lower case with hyphens; any other text as it is, for the server to refuse."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return text


class Commit(NamedTuple):
    """The acknowledgement of a write to a runtime: it is durable.

    `revision` is the runtime's after the write; of a repeat, the one that the first answer told. `replayed` tells
    that the request id was known and nothing was changed.
    """

    revision: int
    replayed: bool


class Acquisition(NamedTuple):
    """The right to drive a runtime: the client sends `fence` with every write to it from now on.

    `previous_owner` held the runtime until now; `None` if nobody ever acquired it, and where the answer to a first
    attempt was lost.
    """

    fence: int
    previous_owner: str | None


class OAuthCommit(NamedTuple):
    """The acknowledgement of a write of the OAuth flow snapshot: it is durable.

    `version` is the snapshot's after the write; of a repeat, the one that the first answer told. `replayed` tells
    that the request id was known and nothing was changed.
    """

    version: int
    replayed: bool


class Loaded(NamedTuple, Generic[T]):
    """A value and the runtime's revision that the load saw (0: nothing was ever written).

    Hand the revision to a write as `if_revision`, and the two are compare-and-swap.
    """

    value: T
    revision: int


@dataclass(frozen=True, slots=True)
class LoadedRuntime:
    """All that a runtime recovers from, as it was at `revision` (0: nothing was ever written).

    `receipts` are those that the inputs' documents name. `None` is what was never written.
    """

    revision: int
    state: RuntimeState | None
    input_states: list[InputState]
    receipts: list[RunBoundaryReceipt]
    ops_snapshot: str | None
    session_snapshot: bytes | None


@dataclass(frozen=True, slots=True)
class SessionVersion:
    """What one write left of a session: `revision` is what `as_of_revision` takes, `sha256` of the whole document.

    `committed_at` is by the database's clock, in UTC; `None` for one that came over from a store without history.
    `run_id` and `sequence` name the boundary that was committed with it, if one was.
    """

    revision: int
    committed_at: dt.datetime | None
    size_bytes: int
    sha256: bytes
    run_id: str | None
    sequence: int | None


class SessionVersions(NamedTuple):
    """A page of a session's versions, newest first. `next_page_token` asks for the next page; empty on the last."""

    versions: list[SessionVersion]
    next_page_token: str


class CorruptInput(NamedTuple):
    """An input whose stored document is not what was written; `description` is for people."""

    input_id: str
    description: str


class ReadableInputStates(NamedTuple):
    """All inputs of a runtime, the damaged ones by name only, and the revision that the load saw.

    Every input of the runtime is in one of the two lists, each in ascending order of `input_id`.
    """

    input_states: list[InputState]
    corrupt_inputs: list[CorruptInput]
    revision: int


@dataclass(frozen=True, slots=True)
class OAuthFlowSnapshot:
    """The OAuth flow snapshot of a realm (`None`: there is none) and its version (0: there is none)."""

    # Kept out of the repr: the bytes hold secrets, and reprs end up in logs.
    snapshot_json: bytes | None = field(repr=False)
    version: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts."""

    max_message_bytes: int
    max_session_snapshot_bytes: int
    max_document_bytes: int
    max_waiting_writes: int
    max_waiting_bytes: int
    max_waiting_reads: int
    request_retention_seconds: int
    session_history_seconds: int


@dataclass(frozen=True, slots=True)
class CommitCounters:
    """Counters of the server's write path since it started: `writes` / `transactions` is the mean batch size."""

    transactions: int
    writes: int
    refusals: int
    replays: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and what it accepts.

    `engine` is `sqlite`, `postgresql` or `memory`; `capabilities` name what the server can do beyond the fifteen
    methods.
    """

    server_version: str
    engine: str
    schema_revision: str
    limits: Limits
    capabilities: frozenset[str]
    commits: CommitCounters
