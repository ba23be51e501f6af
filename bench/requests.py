"""Valid requests, prebuilt, so that a fresh one costs the load generator next to nothing."""

from __future__ import annotations

import base64
import itertools
import json
import os
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from examples.recovery.samples import SampleInput, SampleSession
from runtimestore.v1 import runtime_store_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

STAND_IN = "\x01"
"""Marks, in a prebuilt document, the place of what changes with every request; JSON text holds no such character."""


class Fresh(Protocol):
    """Makes the next request of one runtime."""

    def __call__(self) -> Any:
        """Build a request that the server has not seen."""


class Uuids:
    """UUIDs that never repeat: a random half, a counted half."""

    def __init__(self) -> None:
        self._start = str(uuid.uuid4())[:24]
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        """The next one."""
        return f"{self._start}{next(self._numbers):012x}"


class AtomicApplies:
    """The boundaries of one runtime: a snapshot of a given size and one changed input each."""

    def __init__(self, runtime_id: str, snapshot_bytes: int) -> None:
        self._uuids = Uuids()
        self._session_id = str(uuid.uuid4())
        self._snapshot = _split(session_document(self._session_id, snapshot_bytes, changing=STAND_IN))
        self._input = InputDocuments()
        self._runtime_id = runtime_id

    def __call__(self) -> pb.AtomicApplyRequest:
        """The next boundary."""
        run_id = self._uuids()
        head, tail = self._snapshot
        return pb.AtomicApplyRequest(
            runtime_id=self._runtime_id,
            request_id=self._uuids(),
            session_delta=pb.SessionDelta(session_snapshot=b"".join((head, run_id.encode(), tail))),
            receipt=pb.RunBoundaryReceipt(
                run_id=run_id,
                boundary=pb.RUN_APPLY_BOUNDARY_RUN_START,
                contributing_input_ids=[self._input.input_id],
                conversation_digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                message_count=41,
                sequence=0,
            ),
            input_updates=[self._input(run_id)],
            session_store_key=self._session_id,
        )


class PersistInputStates:
    """The states of one input of one runtime."""

    def __init__(self, runtime_id: str, snapshot_bytes: int) -> None:
        del snapshot_bytes
        self._uuids = Uuids()
        self._input = InputDocuments()
        self._runtime_id = runtime_id

    def __call__(self) -> pb.PersistInputStateRequest:
        """The next state."""
        return pb.PersistInputStateRequest(
            runtime_id=self._runtime_id, request_id=self._uuids(), state=self._input(self._uuids())
        )


class InputDocuments:
    """The documents of one input, each applied by another run."""

    def __init__(self) -> None:
        sample = SampleInput("search the lines of the repository and handle what the tool returns", turn=1)
        self.input_id = sample.input_id
        document = json.loads(sample.applied(STAND_IN))
        self._head, self._tail = json.dumps(document, separators=(",", ":")).split(json.dumps(STAND_IN)[1:-1])

    def __call__(self, run_id: str) -> pb.StoredInputState:
        """The document after this run."""
        return pb.StoredInputState(input_id=self.input_id, state_json=f"{self._head}{run_id}{self._tail}")


def session_document(session_id: str, size_bytes: int, *, changing: str = "", unlike: bool = False) -> bytes:
    """A session of about this size, made of the sample's messages over and over.

    What repeats so often packs better than any real session: with `unlike` every second message is random text, and the
    document packs to about a half.
    """
    sample = SampleSession()
    document = json.loads(sample.snapshot(sample.turns))
    messages = document["messages"]
    document["id"] = session_id
    document["messages"] = []
    document["metadata"]["changing"] = changing
    left_bytes = size_bytes - len(_dumped(document))
    for message in _without_end(messages, unlike=unlike):
        left_bytes -= len(_dumped(message)) + 1
        if left_bytes < 0:
            break
        document["messages"].append(message)
    return _dumped(document)


def _without_end(messages: list[dict[str, Any]], *, unlike: bool) -> Iterator[dict[str, Any]]:
    for number, message in enumerate(itertools.cycle(messages)):
        if unlike and number % 2:
            text = base64.b64encode(os.urandom(len(_dumped(message)) * 3 // 4)).decode()
            yield {"role": "user", "content": text}
        else:
            yield message


def _dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _split(document: bytes) -> tuple[bytes, bytes]:
    head, tail = document.split(json.dumps(STAND_IN)[1:-1].encode())
    return head, tail


KINDS: dict[str, type[AtomicApplies | PersistInputStates]] = {
    "AtomicApply": AtomicApplies,
    "PersistInputState": PersistInputStates,
}
"""What can be measured, by the name of the RPC."""
